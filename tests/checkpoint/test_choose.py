"""Which checkpoints a run may resume from, by checkpoint.resume.

A window of rows is skipped by the next row in the newest checkpoint.
A run with changed settings continues at the next row, or reads new data from its first row.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from distft.checkpoint.choose import candidates, choose, choose_for_export, skip_rows
from distft.checkpoint.format import read_manifest, step_dir, write_index, write_manifest
from distft.checkpoint.retention import latest, point
from distft.data.order import Base, base_of
from distft.run import RunFolder


def publish(checkpoints: Path, resumes: dict[int, str]) -> None:
    """Makes checkpoints without files, each written by a run with that checkpoint.resume."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    write_index(checkpoints, set(resumes))
    for step, resume in resumes.items():
        step_dir(checkpoints, step).mkdir()
        body: dict[str, Any] = {"step": step, "resume": resume}
        write_manifest(step_dir(checkpoints, step), body)


def test_auto_takes_the_newest_and_never_none(tmp_path: Path) -> None:
    publish(tmp_path, {3: "auto", 9: "auto", 6: "auto"})
    assert [folder.name[-1] for folder in candidates(tmp_path, "auto")] == ["9", "6", "3"]
    assert candidates(tmp_path, "never") == []


def test_never_applies_once_and_a_restart_continues_the_new_run(tmp_path: Path) -> None:
    publish(tmp_path, {3: "never", 6: "never", 9: "auto"})
    assert [folder.name[-1] for folder in candidates(tmp_path, "never")] == ["6", "3"]


def test_a_path_applies_once_and_the_same_command_continues(tmp_path: Path) -> None:
    """Steps 3 to 9 were trained before the user went back to 6 and got to step 8."""
    six = step_dir(tmp_path, 6)
    publish(tmp_path, {3: "auto", 6: "auto", 9: "auto"})
    assert candidates(tmp_path, str(six)) == [six]
    publish(tmp_path / "later", {3: "auto", 6: "auto", 7: str(six), 8: str(six)})
    found = candidates(tmp_path / "later", str(six))
    assert [folder.name[-1] for folder in found] == ["8", "7", "6"] and found[-1] == six


def test_an_own_damaged_manifest_is_not_taken_for_the_path(tmp_path: Path) -> None:
    six = step_dir(tmp_path, 6)
    publish(tmp_path, {6: "auto", 7: str(six)})
    (step_dir(tmp_path, 7) / "manifest.json").write_text("{}")
    assert candidates(tmp_path, str(six)) == [six]


def test_a_missing_checkpoint_is_refused_with_the_available_ones(tmp_path: Path) -> None:
    publish(tmp_path, {3: "auto"})
    assert choose(tmp_path, "step-3") == choose(tmp_path, "latest") == step_dir(tmp_path, 3)
    with pytest.raises(ValueError, match="at=step-4: .* Allowed: latest, step-00000003"):
        choose(tmp_path, "step-4")


@pytest.mark.parametrize(
    ("losses", "best", "at", "step", "why"),
    [
        ({0: 3.0, 2: 2.5, 4: 2.7}, 2, "best", 2, "the best of 2 evaluations, held-out loss 2.5000; at step 4, the "),
        ({0: 3.0, 4: 2.5}, 4, "best", 4, "the best of 1 evaluation, held-out loss 2.5000"),
        ({0: 3.0, 2: 2.5, 4: 2.7}, 2, "latest", 4, "the latest checkpoint; the lowest held-out loss was 2.5000"),
        ({0: 3.0, 2: 3.1, 4: 3.2}, None, "best", 4, "no step is better than step 0, whose held-out loss is 3.0000"),
        ({0: 3.0, 3: 2.5, 4: 2.7}, None, "best", 4, "loss was 2.5000, at step 3, which was not saved"),
        ({}, None, "best", 4, "the latest checkpoint; there are no held-out rows"),
        ({}, None, "latest", 4, "the latest checkpoint"),
        ({0: 3.0, 2: float("nan"), 4: float("inf")}, None, "best", 4, "no step is better than step 0"),
        ({0: 3.0, 4: 2.5}, 4, "step-2", 2, "the requested checkpoint; the lowest held-out loss was 2.5000, at step 4"),
    ],
)  # fmt: skip
def test_an_export_names_its_checkpoint_and_the_reason(
    losses: dict[int, Any], best: int | None, at: str, step: int, why: str, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    publish(run.checkpoints, {2: "auto", 4: "auto"})
    if best:
        point(run.checkpoints / "best", step_dir(run.checkpoints, best))
    rows = ({"split": "eval", "step": each, "loss": loss} for each, loss in losses.items())
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    [folder], said = choose_for_export(run, at)
    assert folder == step_dir(run.checkpoints, step)
    assert said.startswith(f"step {step}: the ") and why in said


READS = {"data": "d", "shards": None, "seed": 0, "batch_rows": 4, "batch_tokens": None}


def save(checkpoints: Path, step: int, row: int, resume: str = "auto") -> None:
    step_dir(checkpoints, step).mkdir(parents=True)
    body = {"step": step, "next_row": row, "reads": READS, "base_step": 0, "base_row": 0, "resume": resume}
    write_manifest(step_dir(checkpoints, step), body)
    write_index(checkpoints, {*(2, 4)} & set(range(step + 1)))


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(tmp_path: Path):
    assert latest(tmp_path) is None and skip_rows(tmp_path, "auto", 3, 12) is None


def test_a_resume_from_the_newest_continues_after_the_window(tmp_path: Path):
    save(tmp_path, 2, 8)
    save(tmp_path, 4, 16)
    assert base_of(read_manifest(step_dir(tmp_path, 4)), READS) == Base(0, 0)
    skip_rows(tmp_path, "auto", 6, 24)
    manifest = read_manifest(step_dir(tmp_path, 4))
    assert base_of(manifest, READS) == Base(4, 24)
    assert manifest["skipped"] == [{"after_step": 4, "to_step": 6, "rows": [16, 24]}]
    assert base_of(read_manifest(step_dir(tmp_path, 2)), READS) == Base(0, 0), "older ones are what they were"
    skip_rows(tmp_path, "auto", 5, 28)
    assert [each["rows"] for each in read_manifest(step_dir(tmp_path, 4))["skipped"]] == [[16, 24], [24, 28]]


def test_a_rewritten_manifest_survives_a_power_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path, 2, 8)
    synced: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")) or fsync(file))
    skip_rows(tmp_path, "auto", 3, 12)
    folder = step_dir(tmp_path, 2)
    assert [Path(each).name for each in synced] == [".manifest.json.new", folder.name], "its bytes, then its name"
    assert read_manifest(folder)["next_row"] == 12


def test_a_restarted_run_ignores_its_abandoned_history(tmp_path: Path):
    save(tmp_path, 4, 16)
    assert skip_rows(tmp_path, "never", 2, 8) is None and skip_rows(tmp_path, "/elsewhere/step-00000009", 2, 8) is None
    save(tmp_path, 2, 8, resume="never")
    write_index(tmp_path, {2, 4})
    found = skip_rows(tmp_path, "never", 3, 12)
    assert found and found["step"] == 2


def test_rows_continue_in_the_order_of_the_checkpoint(tmp_path: Path):
    save(tmp_path, 2, 8)
    manifest = read_manifest(step_dir(tmp_path, 2))
    assert base_of(manifest, READS | {"order": 1}) == Base(0, 0), "what an older version has frozen"
    assert base_of(manifest, READS | {"order": 2}) == Base(2, 0), "another order is read from its beginning"


MANIFEST: dict[str, Any] = {"step": 20, "base_step": 5, "base_row": 10, "next_row": 70, "reads": READS}


def test_a_run_without_a_checkpoint_starts_at_its_first_row() -> None:
    assert base_of(None, READS) == Base(0, 0)


def test_the_same_settings_keep_their_base() -> None:
    assert base_of(MANIFEST, dict(READS)) == Base(5, 10)


@pytest.mark.parametrize("change", [{"batch_rows": 8}, {"batch_rows": None, "batch_tokens": 512}], ids=str)
def test_another_step_size_continues_at_the_next_row(change: dict[str, Any]) -> None:
    assert base_of(MANIFEST, READS | change) == Base(20, 70)


@pytest.mark.parametrize("change", [{"data": "e"}, {"shards": [1]}, {"seed": 1}], ids=str)
def test_another_order_is_read_from_the_start(change: dict[str, Any]) -> None:
    assert base_of(MANIFEST, READS | change) == Base(20, 0)
