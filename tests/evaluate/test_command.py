"""Evaluation and export of a running run: the checkpoint that they read is not deleted."""

import fcntl
import subprocess
import time
from pathlib import Path

import pytest

from distft.checkpoint.retention import latest
from distft.run import RunFolder
from tests.support.answered import make_run
from tests.support.warm import python

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of one step."""
    return make_run(tmp_path_factory.mktemp("evaluated"), "train.max_steps=1")


def is_read(folder: Path) -> bool:
    with (folder / "manifest.json").open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_the_checkpoint_is_locked_while_it_is_read(command: str, run: RunFolder, tmp_path: Path) -> None:
    folder = latest(run.checkpoints)
    assert folder is not None and not is_read(folder)
    words = [f"run={run.path}", *([f"out={tmp_path / 'out'}"] if command == "export" else [])]
    process = subprocess.Popen(
        [python(), "-m", f"distft.{command}", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    seen = 0
    while process.poll() is None:
        seen += is_read(folder)
        time.sleep(0.005)
    assert process.returncode == 0, process.communicate()[0]
    assert seen > 5 and not is_read(folder)


def test_a_missing_checkpoint_is_refused(run: RunFolder) -> None:
    command = [python(), "-m", "distft.evaluate", f"run={run.path}", "at=step-9"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Allowed: latest" in done.stderr and "Traceback" not in done.stderr
