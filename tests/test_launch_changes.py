"""A run goes on with changes: any layout freely, what changes its meaning when it is allowed, and nothing is lost."""

import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from distft.checkpoint.choose import candidates
from distft.checkpoint.manifest import read_manifest
from distft.run import RunFolder
from tests.rows import write_sums
from tests.test_launch import end, run_of, start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("changes"))


def newest(run: RunFolder) -> dict:
    return read_manifest(candidates(run.checkpoints, "auto")[0])


@pytest.fixture(scope="module")
def started(folder: Path) -> Iterator[dict[str, Future]]:
    """Launches that come one after the other, beside those of another run: a launch uses one core most of the time."""
    with ThreadPoolExecutor(2) as pool:
        yield {each.__name__: pool.submit(each, folder) for each in (extend, edit_rows)}


@pytest.fixture(scope="module")
def extended(started: dict[str, Future]) -> tuple[RunFolder, str]:
    return started["extend"].result()


@pytest.fixture(scope="module")
def edited(started: dict[str, Future]) -> tuple[RunFolder, list[tuple[int, str, str]]]:
    return started["edit_rows"].result()


def extend(folder: Path) -> tuple[RunFolder, str]:
    """Returns a run of 3 steps, then longer with larger steps and other processes; and what the second launch said."""
    assert end(start(folder, "run", "checkpoint.every_steps=2"))[0] == 0
    changes = ["train.max_steps=5", "train.global_batch_size=8", "strategy=fsdp"]
    code, _, told = end(start(folder, "run", *changes, "checkpoint.allow_change=[train]", processes=2))
    assert code == 0, told
    return run_of(folder, "run"), told


def edit_rows(folder: Path) -> tuple[RunFolder, list[tuple[int, str, str]]]:
    """Returns a run whose rows have changed under their path after 3 steps, and what launches that go on said: one
    that may change the steps, and one that may change the data too."""
    rows = folder / "other" / "rows.jsonl"
    rows.parent.mkdir()
    shutil.copy(folder / "rows.jsonl", rows)
    settings = [f"data.train={rows}", "checkpoint.every_steps=2", "export=false"]
    assert end(start(folder, "edited", *settings))[0] == 0
    rows.write_text(rows.read_text().replace("and", "plus"))
    allowed = ["checkpoint.allow_change=[train.max_steps]", "checkpoint.allow_change=[train.max_steps,data]"]
    return run_of(folder, "edited"), [
        end(start(folder, "edited", *settings, "train.max_steps=4", each)) for each in allowed
    ]


def test_an_allowed_change_is_shown_and_what_was_is_kept(extended: tuple[RunFolder, str]):
    run, told = extended
    changed = {line.partition(": ")[2] for line in told.splitlines() if line.startswith("changed: ")}
    assert {"train.max_steps: 3 -> 5", "train.global_batch_size: 4 -> 8"} <= changed
    assert not any(line.startswith("checkpoint.allow_change") for line in changed)
    assert (run.path / "config.attempt-1.yaml").is_file() and run.read_config()["train"]["max_steps"] == 5
    assert (run.path / "final-step-3").is_dir() and run.final.is_dir()
    assert [row["step"] for row in run.read_metrics("train")] == [1, 2, 3, 4, 5]


def test_larger_steps_read_on_where_the_smaller_ones_ended(extended: tuple[RunFolder, str]):
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
    code, _, told = end(start(folder, "run", *changes))
    assert code == 2 and "has done 5 steps, this config ends after 4" in told


def test_rows_that_changed_under_their_path_are_refused(edited: tuple[RunFolder, list[tuple[int, str, str]]]):
    run, [(code, _, told), again] = edited
    assert code == 2 and "would go on with other rows" in told
    assert "checkpoint.allow_change=[train.max_steps,data]" in told
    assert again[0] == 0, again[2]
    assert (newest(run)["base_step"], newest(run)["next_row"]) == (3, 4)


def test_another_runs_checkpoint_brings_its_config_to_be_held_against(extended: tuple[RunFolder, str], folder: Path):
    run, _ = extended
    start_from = f"checkpoint.resume={(run.checkpoints / 'latest').resolve()}"
    changes = ["train.max_steps=6", "optimizer.lr=0.5", "export=false", start_from]
    code, _, told = end(start(folder, "branch", *changes))
    assert code == 2 and "optimizer.lr: " in told and "train.max_steps: 5 -> 6" in told
    code, _, told = end(start(folder, "branch", *changes, "checkpoint.allow_change=[train,optimizer]"))
    assert code == 0, told
    branch = run_of(folder, "branch")
    assert [row["step"] for row in branch.read_metrics("train")] == [6]
    assert newest(branch)["next_row"] == 32


def test_a_run_that_an_older_version_froze_is_gone_on_with_as_it_is(extended: tuple[RunFolder, str], folder: Path):
    """Its defaults were others, which is no change that the user made."""
    run, _ = extended
    older = run_of(folder, "older")
    shutil.copytree(run.path, older.path, symlinks=True)
    text = older.config.read_text().replace("name: run\n", "name: older\n")
    older.config.write_text(
        text.replace("max_grad_norm: 1.0", "max_grad_norm: 2.0").replace("  deterministic: false\n", "")
    )
    changes = ["checkpoint.every_steps=2", "train.max_steps=5", "train.global_batch_size=8", "strategy=fsdp"]
    code, _, told = end(start(folder, "older", *changes, processes=2))
    assert code == 0, told
    assert "kept: train.max_grad_norm: 2.0 (default now 1.0)" in told
    assert len(told.splitlines()) == 1 and older.read_status()["attempt"] == 2, "it was complete"
    code, _, told = end(start(folder, "older", *changes, "train.max_grad_norm=3", processes=2))
    assert code == 2 and "train.max_grad_norm: 2.0 -> 3" in told
