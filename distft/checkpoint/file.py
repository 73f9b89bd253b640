"""One process's file of a checkpoint: a safetensors file, streamed so that no second copy of the state is made."""

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from distft.checkpoint.chunks import Saved
from distft.runtime import heartbeat
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
                heartbeat.beat()
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
        begin, end = end, end + 4 * chunk.count
        header[str(chunk.name)] = {"dtype": "F32", "shape": chunk.sizes, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _data(chunks: Sequence[Saved]) -> Iterator[memoryview]:
    blocks = (block for chunk in chunks for part in chunk.data for block in part.split(BLOCK))
    for block in on_host(blocks):
        yield block.numpy().data.cast("B")


def on_host(blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yields each block, of at most BLOCK elements, as fp32 in host memory; it stays valid until the next one is asked
    for. Out of a device the next one is copied meanwhile, into one of two pinned buffers."""
    ring: list[torch.Tensor] = []
    under_way: deque[tuple[torch.Tensor, torch.Event | None]] = deque()
    for i, block in enumerate(blocks):
        if block.device.type == "cpu":
            under_way.append((block.float(), None))
        else:
            ring = ring or [torch.empty(BLOCK, pin_memory=True) for _ in range(2)]
            place = ring[i % 2][: block.numel()].copy_(block, non_blocking=True)
            copied = torch.Event(block.device)
            copied.record()
            under_way.append((place, copied))
        if len(under_way) > 1:
            yield _when_copied(*under_way.popleft())
    while under_way:
        yield _when_copied(*under_way.popleft())


def _when_copied(block: torch.Tensor, copied: torch.Event | None) -> torch.Tensor:
    if copied is not None:
        copied.synchronize()
    return block


def _write(handle: BinaryIO, part: memoryview) -> None:
    while part:
        part = part[handle.write(part) :]
