"""A real run on a full disk continues without saving, then saves again; a disk without a byte ends it clearly."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distft.checkpoint.retention import latest
from distft.run import RunFolder
from tests.launch.test_launch import end, start
from tests.support.rows import write_sums
from tests.support.small_disk import fill, small_disk

pytestmark = pytest.mark.soak


def wait_for(happened: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 240
    while not happened():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.05)


def test_a_run_continues_through_a_full_disk(tmp_path: Path) -> None:
    write_sums(tmp_path)
    with small_disk(tmp_path / "disk", 2**26) as disk:
        run = RunFolder(disk / "full")
        settings = ["train.max_steps=2000", "checkpoint.every_steps=5", "eval.at_ends=false", f"runs_dir={disk}"]

        def saved() -> int:
            folder = latest(run.checkpoints)
            return int(folder.name.removeprefix("step-")) if folder else 0

        def stderr() -> str:
            return run.rank_log(1, 0).read_text() if run.rank_log(1, 0).is_file() else ""

        process = start(tmp_path, "full", *settings, processes=2)
        wait_for(saved, "a first checkpoint")
        filler = fill(disk, 2**16)
        wait_for(lambda: "Training goes on" in stderr(), "a save that fails")
        steps, before = len(list(run.read_metrics())), saved()
        wait_for(lambda: len(list(run.read_metrics())) > steps + 10, "training to go on")
        assert saved() == before and "No space left on device" in stderr()
        filler.unlink()
        wait_for(lambda: saved() > before, "a save in the new room")
        fill(disk)
        code, _, shown = end(process)
        assert code == 1 and "No space left on device" in shown.splitlines()[-3], shown
        (disk / "filler").unlink()
        kept, process = saved(), start(tmp_path, "full", *settings, processes=2)
        wait_for(lambda: saved() > kept, "the run to continue")
        run.stop.touch()
        assert end(process)[0] == 75
        done = [row["step"] for row in run.read_metrics("train")]
        assert done == list(range(1, len(done) + 1)) and len(done) > kept
