"""The tensors of a folder of safetensors files, as chunks to stream from."""

import json
from pathlib import Path

from distft.models.headers import read_headers
from distft.models.stored import tensors_of
from distft.models.stream import Chunk
from distft.runtime.process_group import World
from distft.runtime.regions import Flat

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


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


def weight_files(folder: Path) -> list[str]:
    """Returns the names of the model's files: those of its index, else the single one, else what the listing shows.

    The listing comes last: on a shared disk it may lag, and some folders hold the same weights twice.
    """
    try:
        return sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    except FileNotFoundError:
        pass
    if (folder / SINGLE).is_file():
        return [SINGLE]
    return sorted(file.name for file in folder.glob("*.safetensors"))
