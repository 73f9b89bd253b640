"""A run continues with changes: with any layout, and with a change of meaning if it is allowed."""

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from distft.checkpoint.choose import candidates
from distft.checkpoint.format import read_manifest, step_dir
from distft.checkpoint.load import Checkpoint
from distft.run import RunFolder
from distft.verify_resume.compare import KINDS, measure
from tests.launch.test_launch import end, run_of, start
from tests.support.rows import write_sums

pytestmark = pytest.mark.slow
SIX_STEPS = ["train.max_steps=6", "checkpoint.every_steps=2", "checkpoint.keep=9", "eval.at_ends=false", "export=false"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("changes"))


def newest(run: RunFolder) -> dict:
    return read_manifest(candidates(run.checkpoints, "auto")[0])


@pytest.fixture(scope="module")
def started(folder: Path) -> Iterator[dict[str, Future]]:
    """Consecutive launches, concurrent with those of another run: a launch uses one core most of the time."""
    with ThreadPoolExecutor(2) as pool:
        yield {each.__name__: pool.submit(each, folder) for each in (extend, edit_rows, keep_rows)}


@pytest.fixture(scope="module")
def extended(started: dict[str, Future]) -> tuple[RunFolder, str]:
    return started["extend"].result()


@pytest.fixture(scope="module")
def edited(started: dict[str, Future]) -> dict[str, tuple[int, str, str]]:
    return started["edit_rows"].result()


def extend(folder: Path) -> tuple[RunFolder, str]:
    """Returns a run of 3 steps, extended with larger steps and other processes, and the second launch's output."""
    assert end(start(folder, "run", "checkpoint.every_steps=2"))[0] == 0
    changes = ["train.max_steps=5", "train.global_batch_size=8", "strategy=fsdp"]
    code, _, stderr = end(start(folder, "run", *changes, "checkpoint.allow_change=[train]", processes=2))
    assert code == 0, stderr
    return run_of(folder, "run"), stderr


def edit_rows(folder: Path) -> dict[str, tuple[int, str, str]]:
    """Returns the output of the launches of run `edited`, whose rows are edited and deleted.

    It starts over, is killed at step 4, restarted, killed at step 6, and continued by the same command.
    """
    rows = folder / "other" / "rows.jsonl"
    rows.parent.mkdir()
    shutil.copy(folder / "rows.jsonl", rows)
    settings = [f"data.train={rows}", *SIX_STEPS, "checkpoint.resume=never", "launcher.restarts=1"]
    settings += ["launcher.program=tests.support.faulty_rank"]
    process = start(folder, "edited", *settings, FAULT="SIGKILL:0:4:1,SIGKILL:0:6:2")
    while process.poll() is None and not run_of(folder, "edited").config.is_file():
        time.sleep(0.05)
    rows.write_text(edited := rows.read_text().replace("and", "plus"))
    said = {"killed": end(process)}
    rows.unlink()
    said["gone"] = end(start(folder, "edited", *settings))
    rows.write_text(edited)
    shutil.copy(rows, folder / "third.jsonl")
    longer = ["train.max_steps=7", "checkpoint.allow_change=[train.max_steps]"]
    said["elsewhere"] = end(start(folder, "edited", *settings, f"data.train={folder / 'third.jsonl'}", *longer))
    said["new"] = end(start(folder, "edited", *settings, *longer[:1], "checkpoint.allow_change=[train,data]"))
    return said


def keep_rows(folder: Path) -> RunFolder:
    """Returns the uninterrupted run with the same rows under another path."""
    assert end(start(folder, "straight", *SIX_STEPS))[0] == 0
    return run_of(folder, "straight")


def test_an_allowed_change_is_shown_and_the_old_config_kept(extended: tuple[RunFolder, str]):
    run, stderr = extended
    changed = {line.partition(": ")[2] for line in stderr.splitlines() if line.startswith("changed: ")}
    assert {"train.max_steps: 3 -> 5", "train.global_batch_size: 4 -> 8"} <= changed
    assert not any(line.startswith("checkpoint.allow_change") for line in changed)
    assert (run.path / "config.attempt-1.yaml").is_file() and run.read_config()["train"]["max_steps"] == 5
    assert (run.path / "final-step-3").is_dir() and run.final.is_dir()
    assert [row["step"] for row in run.read_metrics("train")] == [1, 2, 3, 4, 5]


def test_larger_steps_continue_at_the_next_unread_row(extended: tuple[RunFolder, str]):
    run, _ = extended
    manifest = newest(run)
    assert (manifest["base_step"], manifest["base_row"], manifest["next_row"]) == (3, 12, 28)
    assert (run.read_plan().steps, run.read_plan().base_row) == (5, 12)


def test_the_same_command_prints_the_result_again(extended: tuple[RunFolder, str], folder: Path):
    run, _ = extended
    changes = ["train.max_steps=5", "train.global_batch_size=8", "strategy=fsdp", "checkpoint.allow_change=[train]"]
    before = run.read_status()
    assert end(start(folder, "run", *changes, processes=2))[0] == 0
    assert run.read_status() == before


def test_a_config_that_ends_before_the_last_step_done_is_refused(extended: tuple[RunFolder, str], folder: Path):
    changes = ["train.max_steps=4", "checkpoint.allow_change=[train]"]
    code, _, stderr = end(start(folder, "run", *changes))
    assert code == 2 and "has done 5 steps, this config ends after 4" in stderr


def test_a_run_with_edited_and_deleted_rows_is_bit_equal(
    edited: dict[str, tuple[int, str, str]], started: dict[str, Future], folder: Path
):
    run, straight = run_of(folder, "edited"), started["keep_rows"].result()
    code, _, stderr = edited["killed"]
    assert code == 1 and "Restart 1 of 1, from step 2" in stderr, stderr
    code, _, stderr = edited["gone"]
    assert code == 0 and "rows.jsonl is gone since: the run continues with its prepared rows" in stderr, stderr
    losses = [[(row["step"], row["loss"]) for row in each.read_metrics("train")] for each in (straight, run)]
    assert len(losses[0]) == 6 and losses[1][:6] == losses[0]
    first, second = (Checkpoint(step_dir(each.checkpoints, 6)) for each in (straight, run))
    assert [measure(first, second, kind).first for kind in KINDS] == [None, None], "not a bit differs"


def test_other_rows_are_read_if_allowed(edited: dict[str, tuple[int, str, str]], folder: Path):
    code, _, stderr = edited["elsewhere"]
    assert code == 2 and "checkpoint.allow_change=[train.max_steps,data.train]" in stderr and "third.jsonl" in stderr
    assert edited["new"][0] == 0, edited["new"][2]
    manifest = newest(run_of(folder, "edited"))
    assert (manifest["base_step"], manifest["next_row"]) == (6, 4)


def test_a_foreign_checkpoint_is_compared_with_its_config(extended: tuple[RunFolder, str], folder: Path):
    run, _ = extended
    start_from = f"checkpoint.resume={(run.checkpoints / 'latest').resolve()}"
    changes = ["train.max_steps=6", "optimizer.lr=0.5", "export=false", start_from]
    code, _, stderr = end(start(folder, "branch", *changes))
    assert code == 2 and "optimizer.lr: " in stderr and "train.max_steps: 5 -> 6" in stderr
    code, _, stderr = end(start(folder, "branch", *changes, "checkpoint.allow_change=[train,optimizer]"))
    assert code == 0, stderr
    branch = run_of(folder, "branch")
    assert [row["step"] for row in branch.read_metrics("train")] == [6]
    assert newest(branch)["next_row"] == 32


def test_a_run_frozen_by_an_older_version_continues(extended: tuple[RunFolder, str], folder: Path):
    """Its defaults were different, which is not a change by the user."""
    run, _ = extended
    older = run_of(folder, "older")
    shutil.copytree(run.path, older.path, symlinks=True)
    text = older.config.read_text().replace("name: run\n", "name: older\n")
    older.config.write_text(
        text.replace("max_grad_norm: 1.0", "max_grad_norm: 2.0").replace("  deterministic: false\n", "")
    )
    changes = ["checkpoint.every_steps=2", "train.max_steps=5", "train.global_batch_size=8", "strategy=fsdp"]
    code, _, stderr = end(start(folder, "older", *changes, processes=2))
    assert code == 0, stderr
    assert "kept: train.max_grad_norm: 2.0 (default now 1.0)" in stderr
    assert len(stderr.splitlines()) == 1 and older.read_status()["attempt"] == 2, "it was complete"
    code, _, stderr = end(start(folder, "older", *changes, "train.max_grad_norm=3", processes=2))
    assert code == 2 and "train.max_grad_norm: 2.0 -> 3" in stderr
