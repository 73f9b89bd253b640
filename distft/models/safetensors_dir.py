"""Reads any flat range of any tensor in a folder of safetensors files, without ever holding a whole tensor.

Layout of a file (huggingface/safetensors): 8 bytes header length, JSON header, then the tensors' bytes, row-major.
"""

import json
import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies: its file's bytes, the first of its own, dtype and shape."""

    bytes_: mmap.mmap
    first_byte: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return torch.Size(self.shape).numel()

    def read(self, start: int, count: int) -> torch.Tensor:
        """Returns elements start..start+count, row-major, as fp32 [count]."""
        size = self.dtype.itemsize
        raw = np.frombuffer(self.bytes_, np.uint8, count * size, self.first_byte + start * size)
        return torch.from_numpy(raw.copy()).view(self.dtype).float()


class SafetensorsDir:
    """The tensors of all safetensors files in a folder, by name."""

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise RuntimeError(f"{folder} holds no safetensors file")
        self.folder = folder
        self.tensors = {name: stored for file in files for name, stored in open_safetensors(file).items()}

    def read(self, name: str, shape: tuple[int, ...], start: int, count: int) -> torch.Tensor:
        """Returns elements start..start+count of tensor `name`, row-major, as fp32 [count]."""
        stored = self.tensors.get(name)
        if stored is None:
            raise RuntimeError(f"{self.folder} has no tensor {name}")
        if stored.shape != shape:
            raise RuntimeError(f"{self.folder}: {name} is {list(stored.shape)}, the model wants {list(shape)}")
        return stored.read(start, count)


def open_safetensors(file: Path) -> dict[str, Stored]:
    """Returns where each tensor of `file` lies; RuntimeError for a damaged file or a dtype that is no weight."""
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, file.stat().st_size - 8):
            raise RuntimeError(f"{file} is damaged: its header claims {length} bytes")
        header = json.loads(handle.read(length))
        bytes_ = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise RuntimeError(f"{file}: {name} is {entry['dtype']}; weights must be one of {', '.join(DTYPES)}")
        start, stop = entry["data_offsets"]
        if 8 + length + stop > len(bytes_):
            raise RuntimeError(f"{file} is cut off: {name} ends at byte {8 + length + stop} of {len(bytes_)}")
        found[name] = Stored(bytes_, 8 + length + start, DTYPES[entry["dtype"]], tuple(entry["shape"]))
    return found
