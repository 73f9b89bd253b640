"""The tensors of a folder of safetensors files, as chunks to stream from, under the names that a model has for them.

Trap: a file may call a weight otherwise than the model does: without the prefix of the base model, or by its name of
years ago. Of a tied pair it may hold the one or the other.
"""

from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedModel

from distft.compat.transformers import renaming
from distft.models.headers import read_headers
from distft.models.stored import tensors_of
from distft.models.stream import Chunk
from distft.models.weight_files import weight_files
from distft.runtime.process_group import World
from distft.runtime.regions import Flat


def folder_chunks(folder: Path, world: World, model: PreTrainedModel | None = None) -> list[Chunk]:
    """Returns every tensor as one chunk, of `model` those that are parameters of it, under its names.

    RuntimeError names a damaged file. Every process calls this.
    """
    headers = read_headers(folder, weight_files(folder) if world.is_first else [], world)
    if not headers:
        raise RuntimeError(f"{folder} holds no safetensors file")
    stored = [name for header in headers.values() for name in header["tensors"]]
    names = names_in_model(model, stored) if model else {name: name for name in stored}
    for header in headers.values():  # what is no parameter may be of any dtype
        header["tensors"] = {name: entry for name, entry in header["tensors"].items() if name in names}
    return [
        Chunk(("parameter", names[name]), stored.shape, Flat(0, stored.count), stored)
        for file, header in headers.items()
        for name, stored in tensors_of(folder / file, header).items()
    ]


def names_in_model(model: PreTrainedModel, stored: Iterable[str]) -> dict[str, str]:
    """Returns the names of stored tensors that are parameters of the model, and its own names for them.

    A parameter comes once: by its own name, where it is stored so, before all others.
    """
    stored = list(stored)
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    own = {name: first[id(parameter)] for name, parameter in model.named_parameters(remove_duplicate=False)}
    found = {name: name for name in stored if own.get(name) == name}
    missing, renamed = set(first.values()) - set(found.values()), renaming(model)
    for name in stored if missing else ():
        target = own.get(name if name in own else renamed(name) or "")
        if target in missing:
            found[name] = target
            missing.remove(target)
    return found
