"""A small save and load before the first step, so that a checkpoint that cannot be saved fails in the first minute."""

import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from distft.checkpoint.chunks import chunks_of, num_weights, write_file
from distft.checkpoint.format import rank_file, read_manifest
from distft.checkpoint.retention import complete
from distft.runtime.process_group import World, all_reduce_sum, texts_of_all
from distft.strategies.engine import Engine
from distft.tensors.integrity import Damaged
from distft.tensors.safetensors import read_header, tensors_of

REHEARSAL = ".rehearsal"
CHUNKS, ELEMENTS = 8, 1000


def rehearse(
    engine: Engine, checkpoints: Path, states_per_weight: float, keep: int, world: World, best: bool = False
) -> None:
    """Checks that checkpoints can be saved; else raises RuntimeError on every process.

    The disk needs space for the checkpoints that retention keeps and one more, and each process must read back what it
    writes. states_per_weight: numbers of optimizer state per weight. best: the best checkpoint is kept in addition.
    """
    folder = checkpoints / REHEARSAL
    weights = torch.tensor([float(num_weights(engine))], dtype=torch.float64, device=world.device)
    size = 4 * (1 + states_per_weight) * all_reduce_sum(weights).item()
    problem = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        problem = (world.is_first and _missing_space(checkpoints, size, keep, best)) or _round_trip(
            engine, folder / rank_file(world.rank)
        )
    except (OSError, RuntimeError) as error:
        problem = str(error)
    problems = list(filter(None, texts_of_all(problem, world)))
    if world.is_first:
        shutil.rmtree(folder, ignore_errors=True)
    if problems:
        raise RuntimeError(f"checkpoints cannot be saved: {problems[0]}")


def _missing_space(checkpoints: Path, size: float, keep: int, best: bool) -> str:
    free = shutil.disk_usage(checkpoints).free
    used = sum(map(_bytes_of, complete(checkpoints)))
    needed = (keep + best + 1) * size - used
    if needed <= free:
        return ""
    return (
        f"{checkpoints} has {free / 2**30:.2f} GiB free. A checkpoint takes {size / 2**30:.2f} GiB, and "
        f"checkpoint.keep={keep}{', the best' if best else ''} and the one being written {needed / 2**30:.2f} GiB. "
        f"Try: checkpoint.keep={max(1, int((free + used) // size) - 1 - best)}, or another runs_dir"
    )


def _bytes_of(folder: Path) -> int:
    try:
        return sum(entry["bytes"] for entry in read_manifest(folder)["files"])
    except Damaged:
        return 0


def _round_trip(engine: Engine, file: Path) -> str:
    chunks = [
        replace(chunk, sizes=(min(ELEMENTS, chunk.count),), data=(chunk.data[0][:ELEMENTS],))
        for chunk in islice(chunks_of(engine), CHUNKS)
    ]
    write_file(file, chunks)
    found = tensors_of(file, read_header(file))
    for chunk in chunks:
        read = found[str(chunk.name)].read(0, chunk.count)
        if not torch.equal(read.view(torch.int32), chunk.data[0].cpu().float().view(torch.int32)):
            return f"{file} reads back differently from what was written: {chunk.name}"
    return ""
