"""Safetensors files: tensors by name and byte range, read directly as torch tensors.

File format (huggingface/safetensors): 8 bytes header length, JSON header, then the tensors' bytes, row-major.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from distft.runtime.process_group import World, from_first, texts_of_all
from distft.tensors.integrity import Checksums, Damaged
from distft.tensors.weight_files import Header, read_header

__all__ = ["DTYPES", "Stored", "read_bytes", "read_header", "tensors_of"]

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass(frozen=True)
class Stored:
    """The location of a tensor in a file: first byte, dtype and shape."""

    file: Path
    first_byte: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return torch.Size(self.shape).numel()

    def read(self, start: int, count: int) -> torch.Tensor:
        """Returns elements start to start + count, row-major, as fp32 [count]."""
        size = self.dtype.itemsize
        return read_bytes(self.file, self.first_byte + start * size, count * size).view(self.dtype).float()


def read_bytes(file: Path, start: int, count: int, into: torch.Tensor | None = None) -> torch.Tensor:
    """Returns bytes start to start + count of a file, uint8 [count]; raises Damaged when the file is shorter."""
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


def tensors_of(file: Path, header: Header) -> dict[str, Stored]:
    """Returns the location of each tensor of `file`; raises RuntimeError for an unsupported dtype."""
    found = {}
    for name, entry in header["tensors"].items():
        if entry["dtype"] not in DTYPES:
            raise RuntimeError(f"{file}: {name} is {entry['dtype']}; weights must be one of {', '.join(DTYPES)}")
        first_byte = 8 + header["length"] + entry["data_offsets"][0]
        found[name] = Stored(file, first_byte, DTYPES[entry["dtype"]], tuple(entry["shape"]))
    return found


def read_headers(
    folder: Path, names: list[str], world: World, checksums: Mapping[Path, Checksums] | None = None
) -> dict[str, Header]:
    """Returns the header of each file in rank 0's `names`; raises Damaged on every rank when one is corrupt."""
    names = json.loads(from_first(json.dumps(names), world))
    headers: dict[str, Header] = {}
    damaged = ""
    for name in names[world.rank :: world.size]:
        try:
            headers[name] = read_header(folder / name, (checksums or {}).get(folder / name))
        except (RuntimeError, OSError) as error:
            damaged = damaged or str(error)
    gathered = [json.loads(text) for text in texts_of_all(json.dumps({"headers": headers, "damaged": damaged}), world)]
    for each in gathered:
        if each["damaged"]:
            raise Damaged(each["damaged"])
        headers |= each["headers"]
    return {name: headers[name] for name in names}
