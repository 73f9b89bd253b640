"""Which checkpoint a user means by `best`, `latest` or `step-N`."""

from pathlib import Path

from distft.checkpoint.format import step_dir
from distft.checkpoint.keep import best, complete, latest
from distft.checkpoint.manifest import Damaged, read_manifest


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
