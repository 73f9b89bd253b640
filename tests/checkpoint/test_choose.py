"""Which checkpoints a run may go on from, by checkpoint.resume."""

import json
from pathlib import Path
from typing import Any

import pytest

from distft.checkpoint.choose import candidates, choose, choose_for_export
from distft.checkpoint.format import step_dir, write_index, write_manifest
from distft.checkpoint.retention import point
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
def test_an_export_says_which_checkpoint_it_is_of_and_why(
    losses: dict[int, Any], best: int | None, at: str, step: int, why: str, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    publish(run.checkpoints, {2: "auto", 4: "auto"})
    if best:
        point(run.checkpoints / "best", step_dir(run.checkpoints, best))
    rows = ({"split": "eval", "step": each, "loss": loss} for each, loss in losses.items())
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder, said = choose_for_export(run, at)
    assert folder == step_dir(run.checkpoints, step)
    assert said.startswith(f"step {step}: the ") and why in said
