"""The tensors of a folder of safetensors files, as chunks to stream from."""

from pathlib import Path

from distft.models.headers import read_headers
from distft.models.stored import tensors_of
from distft.models.stream import Chunk
from distft.models.weight_files import weight_files
from distft.runtime.process_group import World
from distft.runtime.regions import Flat


def folder_chunks(folder: Path, world: World) -> list[Chunk]:
    """Returns every tensor as one chunk; RuntimeError names a damaged file. Every process calls this."""
    headers = read_headers(folder, weight_files(folder) if world.is_first else [], world)
    if not headers:
        raise RuntimeError(f"{folder} holds no safetensors file")
    return [
        Chunk(("parameter", name), stored.shape, Flat(0, stored.count), stored)
        for file, header in headers.items()
        for name, stored in tensors_of(folder / file, header).items()
    ]
