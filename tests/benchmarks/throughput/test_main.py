"""A real benchmark of a tiny model on 1 and 2 processes; the second start measures nothing again."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.rows import write_sums
from tests.support.warm import python


def benchmark(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [python(), "-m", "benchmarks.throughput", f"data.train={write_sums(folder) / 'rows.jsonl'}"]
    command += ["model.tiny=true", "strategies=ddp", "scaling=weak", "rows_per_process=4", "micro=2", "steps=2"]
    command += ["warmup=1", "repeats=1", f"folder={folder / 'runs'}", f"out={folder / 'out'}"]
    command += [f"cache_dir={folder / 'cache'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)


@pytest.mark.slow
def test_one_and_two_processes_are_measured_once(tmp_path: Path):
    done = benchmark(tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "throughput.json").read_text())
    assert [point["processes"] for point in found["points"]] == [1, 2]
    assert all(point["tokens_per_second"] > 0 and point["peak_memory_gib"] > 0 for point in found["points"])
    assert [len(run["repeats"]) for run in found["runs"]] == [1, 1]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        f"throughput.{kind}" for kind in ("json", "csv", "md", "svg", "png")
    }
    [one, two] = [run["repeats"][0]["steps"] for run in found["runs"]]
    assert one == two == 2  # the warm-up is left out
    assert not list((tmp_path / "runs").glob("*/checkpoints"))
    logs = {log: log.stat().st_mtime_ns for log in (tmp_path / "runs").glob("*.log")}
    again = benchmark(tmp_path)
    assert again.returncode == 0, again.stderr
    assert {log: log.stat().st_mtime_ns for log in (tmp_path / "runs").glob("*.log")} == logs and len(logs) == 2
    assert json.loads((tmp_path / "out" / "throughput.json").read_text())["points"] == found["points"]


@pytest.mark.slow
def test_a_wrong_key_exits_2_before_anything_runs(tmp_path: Path):
    done = benchmark(tmp_path, "proceses=1")
    assert done.returncode == 2 and "Did you mean processes?" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists() and not (tmp_path / "out").exists()
