"""`distft check` refuses what a launch refuses, all at once, and starts nothing."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from distft.run import RunFolder
from distft.runtime.disk import alone
from tests.support.rows import write_sums
from tests.support.warm import python

Check = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("checked"))


@pytest.fixture(scope="module")
def run(folder: Path) -> Check:
    """Gives `run(command, *overrides) -> (exit code, stdout, stderr)`, of a tiny model in a folder with rows."""

    def call(name: str, *overrides: str, **variables: str) -> tuple[int, str, str]:
        settings = ["model=gpt2", "model.tiny=true", "data.train=rows.jsonl", "data.eval=0.2", "train.max_steps=2"]
        settings += ["train.global_batch_size=4", "cache_dir=cache", "launcher.processes_per_node=1"]
        words = [python(), "-m", f"distft.{name}", *settings, *overrides]
        done = subprocess.run(
            words, cwd=folder, env=os.environ | variables, capture_output=True, text=True, check=False, timeout=480
        )
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture(scope="module")
def good(run: Check) -> tuple[int, str, str]:
    return run("check", "name=one")


def test_a_good_config_is_prepared_and_nothing_is_started(good: tuple[int, str, str], run: Check, folder: Path):
    code, said, stderr = good
    assert code == 0, stderr
    assert said == f"ok: a launch starts {folder}/runs/one: 2 steps on 1 process, 29 rows to train on, 11 held out\n"
    assert "prepared data" in stderr and not (folder / "runs").exists()
    assert run("check", "name=one") == (0, said, ""), "its rows are prepared by now"


def test_a_run_without_a_name_is_a_new_one(good: tuple[int, str, str], run: Check, folder: Path):
    code, said, _ = run("check", "--json")
    assert code == 0
    assert json.loads(said) == {
        "errors": [], "notes": [], "run": None, "launch": "start", "step": 0, "steps": 2, "rows": 29, "eval_rows": 11,
        "processes": 1,
    }  # fmt: skip
    assert not (folder / "runs").exists()


def test_what_is_wrong_here_is_reported_at_once(good: tuple[int, str, str], run: Check):
    """A folder that cannot be written to, and a secret that would be stored."""
    wrong = ("runs_dir=/proc/runs", "name=one", "data.prompt_template=canary-of-a-token")
    code, said, stderr = run("check", *wrong, "--json", HF_TOKEN="canary-of-a-token")
    assert code == 2
    errors = json.loads(said)["errors"]
    assert any("runs_dir=/proc/runs" in each for each in errors) and any("$HF_TOKEN" in each for each in errors), errors
    assert stderr.startswith("distft: 2 errors in the configuration\n") and "canary" not in said + stderr


def test_rows_that_cannot_be_read_are_an_error_of_the_check(run: Check, folder: Path):
    (folder / "bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c"}\n')
    code, said, stderr = run("check", "data.train=bad.jsonl", "--json")
    errors = json.loads(said)["errors"]
    assert code == 2 and f"{folder}/bad.jsonl:2: completion: is missing" in errors
    assert all(error in stderr for error in errors) and "data.max_bad_fraction" in errors[0]
    code, said, stderr = run("check", "data.train=bad.jsonl")
    assert code == 2 and said == "" and stderr.count("bad.jsonl:2: completion: is missing") == 1


def test_every_job_of_a_sweep_is_checked(good: tuple[int, str, str], run: Check, folder: Path):
    code, said, stderr = run("check", "-m", "seed=0,1,2", "name=rates")
    assert (code, said) == (0, "ok: a sweep of seed, 3 jobs, 0 of them done\n"), stderr
    code, said, _ = run("check", "-m", "seed=0,1", "name=rates", "--json")
    assert code == 0 and json.loads(said) == {
        "errors": [], "sweep": f"{folder}/runs/rates", "done": 0, "steps": {"000-seed_0": 2, "001-seed_1": 2},
    }  # fmt: skip
    code, _, stderr = run("check", "-m", "optimizer.lr=1e-3,-1")
    assert code == 2 and "optimizer.lr=-1" in stderr
    assert not list(folder.glob("runs/*/*")), "no job was started"


def test_what_a_launch_would_do_with_an_earlier_run_is_shown(good: tuple[int, str, str], run: Check, folder: Path):
    code, _, stderr = run("launch", "name=earlier")
    assert code == 0, stderr
    there = f"{folder}/runs/earlier"
    assert run("check", "name=earlier")[1] == f"ok: {there} is complete, and a launch shows its result\n"
    code, said, _ = run("check", "name=earlier", "optimizer.lr=0.5", "--json")
    [error] = json.loads(said)["errors"]
    assert code == 2 and "was made with another config" in error and error.splitlines()[1].endswith("-> 0.5")
    with alone(Path(there) / ".lock"):
        code, _, stderr = run("check", "name=earlier", "optimizer.lr=0.5")
    assert code == 2 and "another launch uses" in stderr and "was made with another config" in stderr, "both at once"
    RunFolder(Path(there)).write_status(state="preempted", exit_code=75)
    assert "a launch continues" in run("check", "name=earlier")[1]
    assert json.loads(run("check", "name=earlier", "--json")[1])["step"] == 2
