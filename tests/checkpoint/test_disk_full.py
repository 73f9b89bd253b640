"""A disk that is full at any point of a save fails that save and nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from distft.checkpoint.format import check_all, step_dir
from distft.checkpoint.load import find
from distft.checkpoint.rehearsal import rehearse
from distft.checkpoint.retention import Retention
from distft.checkpoint.save import SaveFailed, Saver, Snapshot
from distft.runtime.process_group import World
from distft.strategies.engine import Piece
from distft.tensors.regions import Flat
from tests.checkpoint.full_disk import ON_FAILURE
from tests.support.alone import alone
from tests.support.ranks import run_ranks
from tests.support.small_disk import PAGE, fill, small_disk

NUMBERS = 4 * PAGE // 4  # fp32: four pages
GOOD = {"index.json", "latest"}


class Tensor:
    """As much of an engine as is saved: one parameter and its momentum."""

    def __init__(self) -> None:
        self.parameter = torch.randn(NUMBERS)
        self.optimizer = torch.optim.SGD([self.parameter])
        self.optimizer.state[self.parameter]["momentum"] = torch.randn(NUMBERS)

    def pieces(self) -> Iterator[Piece]:
        yield Piece("weight", (NUMBERS,), Flat(0, NUMBERS), self.parameter)


@pytest.fixture
def world() -> Iterator[World]:
    with alone() as world:
        yield world


@pytest.mark.slow
@pytest.mark.parametrize("background", [False, True], ids=["at once", "in the background"])
def test_a_full_disk_leaves_the_older_checkpoint_and_no_debris(background: bool, world: World, tmp_path: Path) -> None:
    """The free room goes up page by page, so that each thing a save writes is once the one that finds none."""
    engine: Any = Tensor()
    with small_disk(tmp_path / "disk", 100 * PAGE) as disk:
        checkpoints = disk / "checkpoints"
        saver = Saver(checkpoints, Retention(2), world, snapshot=Snapshot(world.device) if background else None)
        save(saver, engine, 1)
        failed, step, whole = [], 1, 0
        for pages in range(20):
            filler = fill(disk, pages * PAGE)
            before = {path.name for path in checkpoints.iterdir()}
            try:
                save(saver, engine, step + 1)
                step, whole = step + 1, whole + 1
            except SaveFailed as error:
                failed.append(str(error))
                assert {path.name for path in checkpoints.iterdir()} == before
            found = find(checkpoints, "auto", world)
            assert found is not None and found.step == step
            assert all(not path.name.startswith(".") for path in checkpoints.rglob("*"))
            filler.unlink()
            save(saver, engine, step + 1)
            step += 1
            check_all(step_dir(checkpoints, step))
            assert {path.name for path in checkpoints.iterdir()} == GOOD | {
                step_dir(checkpoints, each).name for each in (step - 1, step)
            }
    assert len(failed) >= 9 and whole >= 5, failed
    assert all("No space left on device" in text and str(checkpoints) in text for text in failed)


def save(saver: Saver, engine: Any, step: int) -> None:
    saver.start(engine, step, {})
    saver.finish()
    saver.cleaner.submit(int).result()  # what it deletes


@pytest.mark.slow
def test_a_failed_save_fails_on_all_ranks_and_the_next_succeeds(tmp_path: Path) -> None:
    """Step 2 has half the room, step 3 all but a little: one of the files is begun and cannot be ended."""
    with small_disk(tmp_path / "disk", 2**25) as disk:
        ranks = run_ranks(2, "tests.checkpoint.full_disk", str(disk))
    seens = [(ON_FAILURE[i % 2], seen) for rank in ranks for i, seen in enumerate(rank)]
    assert len(seens) == 8
    for on_failure, (first, *full, again) in seens:
        assert first["found"] == 1 and first["printed"] == first["raised"] == ""
        for step, seen in enumerate(full, 2):
            text = f"step-{step:08d} could not be saved: [Errno 28] No space left on device"
            assert text in (seen["raised"] if on_failure == "stop" else seen["printed"])
            assert ("MiB are needed" in seen["raised"] + seen["printed"]) == (step == 2)  # reported before it is filled
            assert ("last good checkpoint stays in force" in seen["printed"]) == (on_failure == "continue")
            assert seen["found"] == 1 and set(seen["names"]) == GOOD | {"step-00000001"}
        assert again["found"] == 4 and again["printed"] == again["raised"] == ""
        assert set(again["names"]) == GOOD | {"step-00000001", "step-00000004"}


def test_a_disk_too_small_for_retention_fails_before_step_one(world: World, tmp_path: Path) -> None:
    engine: Any = Tensor()
    with small_disk(tmp_path / "disk", 100 * PAGE) as disk:
        fill(disk, 8 * 2 * PAGE)  # a checkpoint is 8 pages of numbers
        with pytest.raises(RuntimeError) as caught:
            rehearse(engine, disk / "checkpoints", 1.0, 2, world)
        assert not list((disk / "checkpoints").iterdir())
        fill(disk, 8 * 3 * PAGE + 2 * PAGE)
        rehearse(engine, disk / "checkpoints", 1.0, 2, world)
        with pytest.raises(RuntimeError, match="keep=2, the best and the one being written .* Try: .*keep=1"):
            rehearse(engine, disk / "checkpoints", 1.0, 2, world, best=True)
    for part in (
        "checkpoints cannot be saved",
        "GiB free",
        "checkpoint.keep=2",
        "Try: checkpoint.keep=1",
        "runs_dir",
    ):
        assert part in str(caught.value)
