"""Safetensors files: headers, tensors by name, and the chunks of a model folder.

Layout of a file (huggingface/safetensors): 8 bytes header length, JSON header, then the tensors' bytes, row-major.

Trap: a file may call a weight otherwise than the model does: without the prefix of the base model, or by its name of
years ago. Of a tied pair it may hold the one or the other.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distft.runtime.process_group import World, from_first, texts_of_all
from distft.tensors.integrity import Damaged, Seal
from distft.tensors.weight_files import read_header

__all__ = ["DTYPES", "Stored", "read_bytes", "read_header", "tensors_of"]

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


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


def tensors_of(file: Path, header: dict[str, Any]) -> dict[str, Stored]:
    """Returns where each tensor of `file` lies; RuntimeError for a dtype that is no weight."""
    found = {}
    for name, entry in header["tensors"].items():
        if entry["dtype"] not in DTYPES:
            raise RuntimeError(f"{file}: {name} is {entry['dtype']}; weights must be one of {', '.join(DTYPES)}")
        first_byte = 8 + header["length"] + entry["data_offsets"][0]
        found[name] = Stored(file, first_byte, DTYPES[entry["dtype"]], tuple(entry["shape"]))
    return found


def read_headers(
    folder: Path, names: list[str], world: World, seals: Mapping[Path, Seal] | None = None
) -> dict[str, dict[str, Any]]:
    """Returns the header of each file that rank 0 names; Damaged on every process when one is not what it must be."""
    names = json.loads(from_first(json.dumps(names), world))
    headers: dict[str, Any] = {}
    damaged = ""
    for name in names[world.rank :: world.size]:
        try:
            headers[name] = read_header(folder / name, (seals or {}).get(folder / name))
        except (RuntimeError, OSError) as error:
            damaged = damaged or str(error)
    told = [json.loads(text) for text in texts_of_all(json.dumps({"headers": headers, "damaged": damaged}), world)]
    for each in told:
        if each["damaged"]:
            raise Damaged(each["damaged"])
        headers |= each["headers"]
    return {name: headers[name] for name in names}
