"""A checkpoint continues a run: bitwise on the same layout, and on any strategy and world with the same state.

The epoch ends at step 5: every run is interrupted after step 3 and continues to step 6.
"""

import random
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import pytest

from distft.checkpoint.format import step_dir
from distft.checkpoint.load import Checkpoint
from distft.paths import conf_dir
from tests.support.rows import write_rows
from tests.support.trained import run_cases

pytestmark = pytest.mark.slow

OFFLOAD = "zero2+offload"
STRATEGIES = [*sorted(path.stem for path in (conf_dir() / "strategy").glob("*.yaml")), OFFLOAD]
MATRIX = ("ddp", "fsdp", "hsdp", "zero1", "zero2", "zero3")  # offload is zero3 on other devices
CUT, END = 3, 6
DROPOUT = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
MODELS = {"dropout": ("gpt2", DROPOUT), "matrix": ("qwen3_8b", {})}  # each rank draws its own dropout: one layout only

Case = dict[str, Any]
Move = tuple[str, int, str, int]  # strategy and world that saved, strategy and world that goes on
WORLDS = ((1, 2), (2, 1), (2, 2), (1, 1))
EVERY: list[Move] = [(a, m, b, n) for a in MATRIX for b in MATRIX for m, n in WORLDS]
SAVERS = [(strategy, world) for strategy in MATRIX for world in (1, 2)]


def drawn(seed: int, count: int) -> list[Move]:
    """Returns moves drawn by a seed; the first 12 load what each strategy and world saved into each, once."""
    chance = random.Random(seed)
    moves = [(*a, *b) for a, b in zip(chance.sample(SAVERS, 12), chance.sample(SAVERS, 12), strict=True)]
    return moves + chance.sample([move for move in EVERY if move not in moves], count - len(moves))


# A checkpoint knows no strategy, so a pairing of 12 saves with 12 loads proves what all 144 pairs do; the others are in
# `make soak`, and test_round_trip.py draws 20 pairs of layouts.
DRAWN = drawn(0, 12)
FOUR: list[Move] = [("hsdp", 4, "zero3", 4), ("zero2", 2, "hsdp", 4), ("fsdp", 1, "zero1", 4)]
MOVES: list[Move] = [*DRAWN, ("zero3_offload", 2, "fsdp", 2), ("ddp", 1, "zero3_offload", 2), *FOUR]
MOVES += [("hsdp", 4, "zero2", 2), (OFFLOAD, 2, "fsdp", 2), ("ddp", 1, OFFLOAD, 2)]
REST = [move for move in EVERY if move not in MOVES]


class Runs:
    """The cases of all tests, by what they are for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = str(write_rows(folder / "rows"))

    def case(self, kind: str, strategy: str, world: int, **more: Any) -> Case:
        model, architecture = MODELS[kind]
        strategy, *options = strategy.split("+")
        settings = {"shard_size": min(world, 2)} if strategy == "hsdp" else dict.fromkeys(options, True)
        cut = {"micro": None, "micro_tokens": 32} if kind == "dropout" else {"micro": 2}
        shared = {"model": model, "architecture": architecture, "rows": self.rows} | cut
        return shared | {"strategy": strategy, "settings": settings, "steps": END} | more

    def cut(self, strategy: str, world: int) -> Case:
        """Trains to the cut; on 2 processes the checkpoint is written in the background."""
        where = self.folder / f"{strategy}-{world}"
        return self.case("matrix", strategy, world, steps=CUT, save=str(where), background=world == 2)

    def moved(self, move: Move) -> Case:
        """Loads the checkpoint of another layout, saves it again at once, and continues."""
        source, source_world, strategy, world = move
        resume = step_dir(self.folder / f"{source}-{source_world}", CUT)
        reload = self.folder / "-".join(map(str, move))
        return self.case("matrix", strategy, world, resume=str(resume), reload=str(reload))

    def same(self, strategy: str) -> Iterator[tuple[Any, Case]]:
        """Yields runs on one layout, with dropout: straight, and cut twice."""
        at = {name: self.folder / f"{strategy}-{name}" for name in ("straight", "first", "second", "third")}
        case = self.case("dropout", strategy, 2)
        yield (strategy, "straight"), case | {"save": str(at["straight"])}
        yield (strategy, "first"), case | {"steps": CUT, "save": str(at["first"])}
        second = {"resume": str(step_dir(at["first"], CUT)), "steps": CUT + 1, "save": str(at["second"])}
        yield (strategy, "second"), case | second | {"background": True}
        yield (strategy, "third"), case | {"resume": str(step_dir(at["second"], CUT + 1)), "save": str(at["third"])}


def run(moves: list[Move], runs: Runs, more: dict[Any, Case]) -> dict[Any, dict[str, Any]]:
    """Runs the moves, and `more` on two processes: one group of processes for each world that the one before it makes
    possible."""
    saved = {move[:2] for move in moves}
    done: dict[Any, dict[str, Any]] = {}

    def go(source_worlds: tuple[int, ...], world: int, more: dict[Any, Case]) -> None:
        cuts = {cut: runs.cut(*cut) for cut in sorted(saved) if cut[1] == world and cut not in done}
        moved = {move: runs.moved(move) for move in moves if move[1] in source_worlds and move[3] == world}
        for cases in (cuts, moved | more):
            if cases:
                done.update(run_cases(world, cases, runs.folder))

    go((1,), 1, {})
    go((1, 2), 2, more)
    go((1, 2, 4), 4, {})
    go((2,), 1, {})
    go((4,), 2, {})
    return done


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, dict[str, Any]]:
    """Every run once."""
    runs = Runs(tmp_path_factory.mktemp("resume"))
    same = {key: case for strategy in STRATEGIES for key, case in runs.same(strategy)}
    return run(MOVES, runs, {"straight": runs.case("matrix", "ddp", 2)} | same)


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, dict[str, Any]]:
    """The moves between all worlds that `answers` has not."""
    runs = Runs(tmp_path_factory.mktemp("rest"))
    return run(REST, runs, {"straight": runs.case("matrix", "ddp", 2)})


def tensors(folder: str, step: int) -> dict[str, bytes]:
    """Returns the bytes of every whole tensor of a checkpoint."""
    checkpoint = Checkpoint(step_dir(Path(folder), step))
    return {
        f"{slot} {name}": checkpoint.read(name, shape, 0, prod(shape), slot).numpy().tobytes()
        for (slot, name), shape in checkpoint.shapes.items()
    }


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_resumed_twice_is_bitwise_the_uninterrupted_one(strategy: str, answers: Any) -> None:
    """With dropout and packing, in an epoch and across its border, saved in the foreground and in the background."""
    straight, third = answers[strategy, "straight"], answers[strategy, "third"]
    assert answers[strategy, "second"]["steps"] + third["steps"] == straight["steps"][CUT:]
    assert tensors(third["case"]["save"], END) == tensors(straight["case"]["save"], END)


@pytest.mark.parametrize("move", MOVES, ids=lambda move: "{}@{}-{}@{}".format(*move))
def test_drawn_strategies_and_worlds_take_over_bit_for_bit(move: Move, answers: Any) -> None:
    assert_taken_over(move, answers)


@pytest.mark.soak
@pytest.mark.parametrize("move", REST, ids=lambda move: "{}@{}-{}@{}".format(*move))
def test_every_strategy_and_world_takes_over_bit_for_bit(move: Move, rest: Any) -> None:
    assert_taken_over(move, rest)


def assert_taken_over(move: Move, answers: dict[Any, dict[str, Any]]) -> None:
    saved, resumed = answers[move[:2]], answers[move]
    assert tensors(resumed["case"]["reload"], CUT) == tensors(saved["case"]["save"], CUT)
    for mine, straight in zip(resumed["steps"], answers["straight"]["steps"][CUT:], strict=True):
        assert mine == pytest.approx(straight, rel=2e-6)
