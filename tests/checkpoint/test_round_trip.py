"""A checkpoint saved in one layout loads bit-equal in any other: sharded along one dim, along two, or twice along one.

A checkpoint knows no layout, so 12 saves that are each read back whole, 12 loads and 20 pairs drawn by a seed prove
what all 144 pairs do; the other pairs are in `make soak`.
"""

import json
import random
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from distft.checkpoint.format import step_dir
from distft.checkpoint.load import Checkpoint
from tests.checkpoint.layouts import LAYOUTS, ROWS, SHAPES, STEP, make_mesh, run_job, value_of
from tests.support.alone import alone
from tests.support.ranks import run_ranks

pytestmark = pytest.mark.slow
Job = dict[str, str]
Move = tuple[str, str]
EVERY: list[Move] = [(a, b) for a in LAYOUTS for b in LAYOUTS]
LOADS: list[Move] = [("one", layout) for layout in LAYOUTS]
PAIRS = random.Random(0).sample([move for move in EVERY if move not in LOADS], 20)
MOVES = [*LOADS, *PAIRS]
REST = [move for move in EVERY if move not in MOVES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("layouts")


@pytest.fixture(scope="module")
def wrong(folder: Path) -> dict[Any, list[str]]:
    """What is wrong after each save, by its layout, and after each load, by the two layouts."""
    return run(MOVES, folder)


@pytest.fixture(scope="module")
def wrong_of_rest(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, list[str]]:
    """The same of the pairs that `wrong` leaves out."""
    return run(REST, tmp_path_factory.mktemp("rest"))


def run(moves: list[Move], folder: Path) -> dict[Any, list[str]]:
    saves = {name: {"layout": name, "save": str(folder / name)} for name in LAYOUTS}
    loads = {(a, b): {"layout": b, "load": str(folder / a)} for a, b in moves}
    alone_saves, alone_loads = (_of_world(1, jobs) for jobs in (saves, loads))
    found = _run_alone(alone_saves)
    four = _of_world(4, saves | loads)
    (folder / "jobs.json").write_text(json.dumps(list(four.values())))
    found |= dict(zip(four, run_ranks(4, "tests.checkpoint.layouts", str(folder / "jobs.json")), strict=True))
    return found | _run_alone(alone_loads)


def _of_world(world: int, jobs: dict[Any, Job]) -> dict[Any, Job]:
    return {key: job for key, job in jobs.items() if prod(LAYOUTS[job["layout"]][0]) == world}


def _run_alone(jobs: dict[Any, Job]) -> dict[Any, list[str]]:
    make_mesh.cache_clear()
    with alone() as world:
        return {key: run_job(job, world) for key, job in jobs.items()}


@pytest.mark.parametrize("move", MOVES, ids=lambda move: f"{move[0]} -> {move[1]}")
def test_every_layout_loads_what_any_layout_saved(move: Move, wrong: Any) -> None:
    assert wrong[move[0]] == [], "the layout itself does not hold what was put into it"
    assert wrong[move] == []


@pytest.mark.soak
@pytest.mark.parametrize("move", REST, ids=lambda move: f"{move[0]} -> {move[1]}")
def test_every_other_pair_of_layouts(move: Move, wrong_of_rest: Any) -> None:
    assert wrong_of_rest[move] == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whole_tensors_are_read_without_any_process_group(layout: str, wrong: Any, folder: Path) -> None:
    """As an export does; what is frozen is not there."""
    checkpoint = Checkpoint(step_dir(folder / layout, STEP))
    trained = {name: shape for name, shape in SHAPES.items() if name != "frozen"}
    wanted = {(slot, name): shape for slot in ("parameter", "moment", "uncut") for name, shape in trained.items()}
    wanted |= {("step", name): () for name in trained}
    wanted |= {("row", name): shape for name, shape in ROWS.items()}
    wanted |= {("column", name): SHAPES[name][-1:] for name in ROWS}
    assert checkpoint.shapes == wanted
    for (slot, name), shape in wanted.items():
        whole = torch.tensor(5.0) if slot == "step" else value_of(slot, name, shape)
        found = checkpoint.read(name, shape, 0, prod(shape), slot)
        assert found.numpy().tobytes() == whole.numpy().tobytes()
