"""One process's file of a checkpoint: a safetensors file, streamed so that no second copy of the state is made."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from distft.checkpoint.chunks import Saved
from distft.runtime.seals import Sealing, hash_of

BLOCK = 2**22  # elements on their way: 16 MiB of fp32


def write_file(file: Path, chunks: Sequence[Saved]) -> dict[str, Any]:
    """Writes the chunks; returns the manifest's entry of the file, which would survive a loss of power.

    OSError with the file's name when it cannot be written; then it is gone, and what it took of a full disk is free.
    """
    sealing = Sealing()
    header = _header(chunks)
    try:
        with file.open("wb", buffering=0) as handle:
            _write(handle, memoryview(header))
            for part in _data(chunks):
                sealing.add(part)
                _write(handle, part)
            os.fsync(handle.fileno())
            size = handle.tell()
    except OSError as error:
        with suppress(OSError):
            file.unlink()
        raise OSError(error.errno, error.strerror, str(file)) from error
    return {"name": file.name, "bytes": size, "xxh3_128": [hash_of(header), *sealing.blocks()]}


def _header(chunks: Sequence[Saved]) -> bytes:
    """Returns the file's first bytes: the length of the header, and the header."""
    header, end = {}, 0
    for chunk in chunks:
        begin, end = end, end + 4 * chunk.data.numel()
        header[str(chunk.name)] = {"dtype": "F32", "shape": chunk.sizes, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _data(chunks: Sequence[Saved]) -> Iterator[memoryview]:
    for chunk in chunks:
        for block in chunk.data.split(BLOCK):
            yield block.to("cpu", torch.float32).numpy().data.cast("B")


def _write(handle: BinaryIO, part: memoryview) -> None:
    while part:
        part = part[handle.write(part) :]
