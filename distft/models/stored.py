"""Where tensors lie in safetensors files, told by the headers alone.

Layout of a file (huggingface/safetensors): 8 bytes header length, JSON header, then the tensors' bytes, row-major.
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from distft.runtime.seals import Damaged, Seal

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its first byte, dtype and shape."""

    file: Path
    first_byte: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return torch.Size(self.shape).numel()

    def read(self, start: int, count: int) -> torch.Tensor:
        """Returns elements start..start+count, row-major, as fp32 [count]."""
        size = self.dtype.itemsize
        return read_bytes(self.file, self.first_byte + start * size, count * size).view(self.dtype).float()


def read_bytes(file: Path, start: int, count: int, into: torch.Tensor | None = None) -> torch.Tensor:
    """Returns bytes start..start+count of a file, uint8 [count]; Damaged when it ends before."""
    found = torch.empty(count, dtype=torch.uint8) if into is None else into[:count]
    rest = found.numpy().data
    with file.open("rb", buffering=0) as handle:
        handle.seek(start)
        while rest:
            got = handle.readinto(rest)
            if not got:
                raise Damaged(f"{file} is cut off: it ends before byte {start + count}")
            rest = rest[got:]
    return found


def read_header(file: Path, seal: Seal | None = None) -> dict[str, Any]:
    """Returns the header of `file` with its own length; Damaged when it is cut off, or not what its seal says."""
    if seal:
        seal.check_size(file)
    size = file.stat().st_size
    with file.open("rb", buffering=0) as handle:
        start = handle.read(8)
        length = int.from_bytes(start, "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
            raise Damaged(f"{file} is damaged: its header claims {length} bytes")
        text = handle.read(length)
    if seal:
        seal.check_header(file, start + text)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{file} is damaged: its header is no JSON") from error
    if not isinstance(header, dict):
        raise Damaged(f"{file} is damaged: its header is no JSON of names")
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if not _is_entry(entry):
            raise Damaged(f"{file} is damaged: its header says of {name} what no tensor can be")
        stop = 8 + length + entry["data_offsets"][1]
        if stop > size:
            raise Damaged(f"{file} is cut off: {name} ends at byte {stop} of {size}")
    return {"length": length, "tensors": header}


def _is_entry(entry: Any) -> bool:
    """Tells whether shape, dtype and place agree: a shape is believed, and memory taken for it, before data is read."""
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        return False
    if not isinstance(shape, list) or not all(type(number) is int and number >= 0 for number in (*shape, start, stop)):
        return False
    size = DTYPES[dtype].itemsize if isinstance(dtype, str) and dtype in DTYPES else None
    return start <= stop and (size is None or prod(shape) * size == stop - start)


def tensors_of(file: Path, header: dict[str, Any]) -> dict[str, Stored]:
    """Returns where each tensor of `file` lies; RuntimeError for a dtype that is no weight."""
    found = {}
    for name, entry in header["tensors"].items():
        if entry["dtype"] not in DTYPES:
            raise RuntimeError(f"{file}: {name} is {entry['dtype']}; weights must be one of {', '.join(DTYPES)}")
        first_byte = 8 + header["length"] + entry["data_offsets"][0]
        found[name] = Stored(file, first_byte, DTYPES[entry["dtype"]], tuple(entry["shape"]))
    return found
