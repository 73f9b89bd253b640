"""`distft runs` needs only the run folders, in any state, and stops a run through its folder."""

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from distft.config import ConfigError
from distft.launchers.local import Local, LocalConfig
from distft.run import RunFolder, write_json
from distft.runs.__main__ import main
from distft.runs.facts import facts, find_runs, slowest_of
from tests.support.fake_run import assert_none_left, freeze, wait_for_rows
from tests.support.warm import python

ROW = {"split": "train", "loss": 2.5, "grad_norm": 1.0, "seconds": 0.5, "tokens": 50, "tokens_per_second": 100.0}


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of two ranks in its fourth step, which was started again once."""
    run = freeze(tmp_path / "runs" / "sick", steps=50)
    run.write_status(state="running", step=4, attempt=2)
    rows = [ROW | {"step": step, "mfu": 0.25, "phases": {"data": 0.05}} for step in (1, 2, 3, 4)]
    rows.insert(2, {"split": "warning", "step": 2, "text": "loss of step 2 is odd"})
    rows.append({"split": "eval", "step": 4, "loss": 3.25})
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"split": "tra')
    spent = [{"forward": 0.2, "data": 0.01}, {"forward": 0.1, "data": 0.01}, {"forward": 0.1, "data": 0.01}]
    ranks = [
        {"rank": i, "host": f"n{i}", "step": 4, "phase": "forward", "collectives": 9, "seconds_a_step": each}
        for i, each in enumerate(spent)
    ]
    write_json(run.health, {"time": 0, "attempt": 2, "ranks": ranks})
    error = {"rank": 1, "host": "n1", "type": "Hang", "message": "no progress"}
    (run.path / "restarts.jsonl").write_text(json.dumps({"attempt": 1, "from_step": 2, "error": error}) + "\n")
    run.checkpoints.mkdir()
    (run.checkpoints / "latest").symlink_to("step-00000002")
    return run


def test_show_prints_the_known_facts(run: RunFolder, capsys: pytest.CaptureFixture[str]):
    text = output(capsys, "show", f"run={run.path}")
    for part in (
        "state │ running",
        "step │ 4 of 50",
        "loss │ 2.5000",
        "held-out loss │ 3.2500",
        "tokens/s │ 100",
        "MFU │ 25.0%",
        "waits for data │ 10.0%",
        "last checkpoint │ step-00000002, 0s ago",
        "slowest rank │ 0 on n0: forward, 2.00 x the median",
        "rank 2 │ forward of step 4 on n2",
        "warning, step 2 │ loss of step 2 is odd",
        "restart after attempt 1 │ from step 2: Hang",
    ):
        assert part in text, part


def test_ranks_of_an_earlier_attempt_are_not_shown(run: RunFolder):
    run.write_status(attempt=3)
    assert facts(run).ranks == [] and facts(run).slowest is None


def test_a_run_that_stops_writing_is_reported(run: RunFolder, capsys: pytest.CaptureFixture[str]):
    write_json(run.status, run.read_status() | {"time": time.time() - 400})
    assert "running, silent for 6m40s" in output(capsys, "show", f"run={run.path}")
    run.write_status(state="completed")
    write_json(run.status, run.read_status() | {"time": time.time() - 400})
    assert "silent" not in output(capsys, "show", f"run={run.path}")


def test_list_has_runs_and_those_of_sweeps_and_no_evaluations(run: RunFolder, capsys: pytest.CaptureFixture[str]):
    folder = run.path.parent
    freeze(folder / "rates" / "000-lr=1")
    freeze(run.path / "eval" / "step-2")
    freeze(folder / "empty").metrics.touch()
    (folder / "broken").mkdir()
    (folder / "broken" / "status.json").write_text("")
    assert {each.path.name for each in find_runs(folder)} == {"sick", "000-lr=1", "empty"}
    text = output(capsys, "list", f"runs_dir={folder}")
    assert "3 runs in" in text and "rates/000-lr=1 │ pending │ 0/5" in text


def test_half_written_files_are_left_out(run: RunFolder):
    for file in (run.health, run.plan, run.path / "goodput.json", run.status):
        file.write_text('{"ranks": [')
    assert facts(run).steps == 0 and facts(run).ranks == [] and facts(run).goodput is None


def test_one_rank_has_no_slowest_rank(run: RunFolder):
    assert slowest_of([]) is None
    assert slowest_of([{"rank": 0, "host": "n", "seconds_a_step": {"forward": 1.0}}]) is None


def test_tail_gives_every_row_of_a_run_that_has_ended(run: RunFolder, capsys: pytest.CaptureFixture[str]):
    run.write_status(state="failed")
    text = output(capsys, "tail", f"run={run.path}")
    for part in ("step 1 loss 2.5000", "step 2 warning: loss of step 2 is odd", "held-out loss 3.2500", "sick: failed"):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (["lst"], r"lst: unknown command. Allowed: list, show, .* Did you mean list\?"),
        (["show"], "run is missing: a run's folder.* Try: distft runs show NAME"),
        (["show", "run=nowhere"], "holds no run"),
        (["list", "run=x"], "x: list takes no runs"),
        (["list", "runs_dir=/no/such"], "there is no such folder, and so no run"),
    ],
)
def test_errors_are_reported_with_the_rule(arguments: list[str], rule: str):
    with pytest.raises(ConfigError, match=rule):
        main(arguments)


@pytest.mark.slow
def test_stop_ends_a_run_at_its_next_step(tmp_path: Path):
    run = freeze(tmp_path / "run", steps=100_000, processes=1)
    [handle] = Local(LocalConfig(program="tests.support.fake_worker")).submit([run.path])
    wait_for_rows(run)
    command = [python(), "-m", "distft.runs", "stop", f"run={run.path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "saves at the end of the step in progress" in done.stdout
    deadline = time.monotonic() + 60
    while handle.wait(0.1) is None:
        assert time.monotonic() < deadline
    assert run.read_status()["state"] == "preempted"
    assert_none_left(run)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "already preempted" in done.stderr


def test_list_names_the_models_that_were_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name, model in (("a", "my-model"), ("b", "my-model")):
        one = freeze(tmp_path / name)
        one.write_plan(replace(one.read_plan(), model_name=model))
    assert "2 runs in" in (text := output(capsys, "list", f"runs_dir={tmp_path}")) and ", model my-model" in text
    one.write_plan(replace(one.read_plan(), model_name="gpt2"))
    text = output(capsys, "list", f"runs_dir={tmp_path}")
    assert "model ┃" in text and "my-model │" in text and "gpt2" in text
