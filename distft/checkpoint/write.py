"""Writes a checkpoint: every rank its own chunks, beside the good ones; one rename makes it count."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import distft
from distft.checkpoint.format import MANIFEST, PARAMETER, ChunkName, rank_file, step_dir
from distft.checkpoint.manifest import describe, write_manifest
from distft.checkpoint.tensors import save_tensors
from distft.run import read_json, write_json
from distft.runtime.process_group import World
from distft.strategies.engine import Engine


def save(engine: Engine, checkpoints: Path, step: int, about: dict[str, Any], world: World) -> Path:
    """Writes the engine's state at `step` and makes it `latest`; every process calls this.

    about: further entries of the manifest. Until the rename at the end the older checkpoint stays in force.
    """
    folder = step_dir(checkpoints, step)
    partial = folder.with_name(f".{folder.name}.partial")
    if world.is_first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    file = partial / rank_file(world.rank)
    save_tensors(dict(_chunks(engine)), file)
    sync(file)
    write_json(partial / f"{file.name}.json", describe(file))
    dist.barrier()
    if world.is_first:
        _publish(partial, folder, {"step": step, "scalars": _scalars(engine), **about}, world.size)
        point(checkpoints / "latest", folder)
    dist.barrier()
    return folder


def point(link: Path, folder: Path) -> None:
    """Makes `link` lead to `folder`, by one rename."""
    beside = link.with_name(f".{link.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(folder.name)
    os.replace(beside, link)


def _chunks(engine: Engine) -> Any:
    for piece in engine.pieces():
        if not piece.writes:
            continue
        yield str(ChunkName(PARAMETER, piece.name, piece.start)), piece.of(piece.owner).contiguous().cpu()
        for slot, state in engine.optimizer.state.get(piece.owner, {}).items():
            if torch.is_tensor(state) and state.shape == piece.owner.shape:
                yield str(ChunkName(slot, piece.name, piece.start)), piece.of(state).contiguous().cpu()


def _scalars(engine: Engine) -> dict[str, float]:
    """Returns the optimizer's states that are one number, such as Adam's step; all parameters share them."""
    found: dict[str, float] = {}
    for owner, states in engine.optimizer.state.items():
        for slot, state in states.items():
            if not torch.is_tensor(state) or state.shape != owner.shape:
                number = float(state)
                assert found.setdefault(slot, number) == number, f"{slot} differs between parameters"
    return found


def _publish(partial: Path, folder: Path, about: dict[str, Any], ranks: int) -> None:
    described = [partial / f"{rank_file(rank)}.json" for rank in range(ranks)]
    files = [read_json(path) for path in described]
    versions = {"distft": distft.__version__, "torch": torch.__version__}
    write_manifest(partial, {**versions, "world": ranks, **about, "files": files})
    for path in described:
        path.unlink()
    sync(partial / MANIFEST)
    sync(partial)
    older = folder.with_name(f".{folder.name}.older")
    if folder.exists():
        os.replace(folder, older)
    os.replace(partial, folder)
    sync(folder.parent)
    shutil.rmtree(older, ignore_errors=True)


def sync(path: Path) -> None:
    """Returns when a file's bytes, or a folder's names, would survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
