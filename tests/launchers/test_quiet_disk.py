"""A run polls its folder once per step, from one process of the whole job (by strace)."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from distft.run import RunFolder
from tests.support.fake_run import wait_for_rows
from tests.support.rows import write_sums
from tests.support.traced import Call, watch

SECONDS = 5
STATS = {"stat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat"}
Traced = tuple[RunFolder, list[Call]]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """A run of two ranks, and what all its processes call on its folder in SECONDS of steady steps."""
    folder = tmp_path_factory.mktemp("quiet")
    write_sums(folder)
    settings = ["model=gpt2", "model.tiny=true", "data.eval=0.2", f"data.train={folder / 'rows.jsonl'}", "name=quiet"]
    settings += ["train.epochs=null", "train.max_steps=100000", "train.global_batch_size=4"]
    settings += ["train.micro_batch_size=2", "launcher.processes_per_node=2", f"runs_dir={folder / 'runs'}"]
    settings += [f"cache_dir={folder / 'cache'}", "launcher.program=tests.support.eager_rank"]
    run = RunFolder(folder / "runs" / "quiet")
    with (folder / "log").open("w") as log:
        launch = subprocess.Popen([sys.executable, "-m", "distft.launch", *settings], stdout=log, stderr=log)
    try:
        wait_for_rows(run)
        time.sleep(2)
        calls = watch(launch.pid, folder / "trace", SECONDS)
        assert launch.poll() is None, (folder / "log").read_text()
        yield run, [call for call in calls if call.path.startswith(str(run.path))]
    finally:
        launch.kill()
        launch.wait()


def num_steps(traced: Traced) -> int:
    run, calls = traced
    return sum(call.name == "write" and call.path == str(run.metrics) for call in calls)


@pytest.mark.slow
def test_a_step_polls_the_run_folder_at_most_once(traced: Traced) -> None:
    """Of all ranks, the elastic process and the command that shows the run."""
    run, calls = traced
    steps = num_steps(traced)
    counts = Counter((call.name, Path(call.path).name.partition(".json.")[0]) for call in calls)
    for (name, file), count in counts.most_common():
        print(f"{count / steps:.2f} a step: {name} {file}")
    assert steps > 10
    assert sum(call.name in STATS for call in calls) <= steps + 1  # a step may be cut in two by the end of the trace
    assert not [call for call in calls if call.name.startswith("getdents") or call.name.startswith("mkdir")]
    assert sum(call.name == "openat" and call.path == str(run.stop) for call in calls) <= steps + 1


@pytest.mark.slow
def test_only_rank_0_and_the_command_touch_the_folder(traced: Traced) -> None:
    run, calls = traced
    health = [call for call in calls if run.health.name in call.path]  # the phases of the ranks, written by their node
    calls = [call for call in calls if call not in health]
    assert sum(call.name == "write" for call in health) <= 1 and len({call.process for call in health}) <= 1
    looking = {call.process for call in calls if call.path == str(run.stop)}
    writing = {call.process for call in calls if call.name == "write"}
    assert len(looking) == 1 and looking == writing
    others = [call for call in calls if call.process not in looking]
    assert {call.path for call in others} <= {str(run.metrics)} and len({call.process for call in others}) <= 1
