"""Which checkpoint a user means by `best`, `latest` or `step-N`.

Where a run reads on is the manifest's to say, so the window is skipped by writing that anew, in one rename: whoever
resumes from the checkpoint, here or after a restart, reads the same rows.
"""

from math import isfinite
from pathlib import Path
from typing import Any

from distft.checkpoint.format import Damaged, read_manifest, step_dir, write_manifest
from distft.checkpoint.retention import best, complete, latest
from distft.run import RunFolder


def candidates(checkpoints: Path, resume: str) -> list[Path]:
    """Returns the published checkpoints that a run may go on from, best first, by checkpoint.resume.

    A path and `never` count once: checkpoints that the run wrote after it was told to start from there, or anew, go
    before it, so a restart, and the same command, continues an interrupted run.
    """
    newest_first = complete(checkpoints)[::-1]
    if resume == "auto":
        return newest_first
    own = [folder for folder in newest_first if _started_from(folder, resume)]
    return own if resume == "never" else [*own, Path(resume)]


def _started_from(folder: Path, resume: str) -> bool:
    try:
        return read_manifest(folder).get("resume") == resume
    except Damaged:
        return False


def choose(checkpoints: Path, at: str) -> Path:
    """Returns the folder; ValueError names the checkpoints there are."""
    names = [folder.name for folder in complete(checkpoints)]
    if at in ("latest", "best"):
        found = latest(checkpoints) if at == "latest" else best(checkpoints)
    else:
        step = at.removeprefix("step-")
        found = step_dir(checkpoints, int(step)) if step.isdigit() else None
    if found is None or found.name not in names:
        words = ["latest", *(["best"] if best(checkpoints) else [])] if names else ["none"]
        there = ", ".join([*words, *names])
        raise ValueError(f"at={at}: there is no such checkpoint. There are: {there}")
    return found


def to_export(run: RunFolder, at: str) -> tuple[Path, str]:
    """Returns the checkpoint that `at` means for an export, and a line that says which it is and why.

    best: the latest where none is better than step 0. ValueError names the checkpoints there are.
    """
    folder = choose(run.checkpoints, "latest" if at == "best" and best(run.checkpoints) is None else at)
    step = int(folder.name.removeprefix("step-"))
    losses = {row["step"]: row["loss"] for row in run.read_metrics("eval") if isfinite(row["loss"])}
    return folder, f"step {step}: {_why(at, step, losses, is_best=folder == best(run.checkpoints))}"


def _why(at: str, step: int, losses: dict[int, Any], is_best: bool) -> str:
    """Returns why it is the checkpoint of this step; losses: the held-out loss by step."""
    own = f"held-out loss {losses[step]:.4f}" if step in losses else ""
    lowest = min(losses, key=lambda each: (losses[each], each), default=None)
    if is_best:
        others = len(losses.keys() - {0})
        last = max(losses, default=step)
        after = f"; at step {last}, the last, {losses[last]:.4f}" if last != step and last in losses else ""
        return f"the best of {others} evaluation{'s' * (others != 1)}, {own}{after}"
    latest_one = "the latest checkpoint" if at in ("best", "latest") else "the checkpoint asked for"
    if lowest is None:
        return f"{latest_one}; there are no held-out rows" if at == "best" else latest_one
    if lowest == 0:
        return f"{latest_one}; no step is better than step 0, whose held-out loss is {losses[0]:.4f}"
    there = f"; the lowest held-out loss was {losses[lowest]:.4f}, at step {lowest}"
    saved = ", which was not saved" if at == "best" else ""
    return latest_one + ("" if lowest == step else there + saved)


def skip_rows(checkpoints: Path, resume: str, step: int, row: int) -> dict[str, Any] | None:
    """Has the steps after the newest checkpoint of this history read on at position `row`; returns its manifest, None
    without one.

    resume: checkpoint.resume, by which older checkpoints are of a history that the run has left. step: the one that
    cannot be taken, for the record in the manifest.
    """
    folder = next((each for each in candidates(checkpoints, resume) if each.parent == checkpoints), None)
    if folder is None or not folder.is_dir():
        return None
    manifest = read_manifest(folder)
    window = {"after_step": manifest["step"], "to_step": step, "rows": [manifest["next_row"], row]}
    skipped = [*manifest.get("skipped", []), window]
    manifest |= {"base_step": manifest["step"], "base_row": row, "next_row": row, "skipped": skipped}
    write_manifest(folder, manifest)
    return manifest
