"""Peak memory is the maximum over a program's processes, even if it is freed; a failure has its reason."""

import sys
from pathlib import Path

import pytest

from benchmarks.peers.watch import Ended, run_watched

PARENT = """
import subprocess, sys, time
subprocess.run([sys.executable, "-c", "x = b'1' * (300 * 2**20); del x; import time; time.sleep(0.8)"], check=True)
time.sleep(0.5)
"""


@pytest.mark.slow
def test_peak_memory_includes_grandchildren(tmp_path: Path):
    peaks = run_watched([sys.executable, "-c", PARENT], tmp_path / "logs" / "run.log", {})
    assert len(peaks) == 2
    assert 300 / 1024 < peaks[0] < 400 / 1024
    assert peaks[1] < 100 / 1024


def test_a_failing_program_is_named_with_its_last_line(tmp_path: Path):
    with pytest.raises(Ended, match="exit code 3.*the reason"):
        run_watched([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], tmp_path / "run.log", {})


def test_the_environment_is_handed_on(tmp_path: Path):
    run_watched([sys.executable, "-c", "import os; print(os.environ['ONE'])"], tmp_path / "run.log", {"ONE": "two"})
    assert (tmp_path / "run.log").read_text() == "two\n"
