"""Which checkpoint a user means by `best`, `latest` or `step-N`."""

from pathlib import Path

from distft.checkpoint.format import step_dir
from distft.checkpoint.keep import complete, latest


def choose(checkpoints: Path, at: str) -> Path:
    """Returns the folder; ValueError names the checkpoints there are."""
    names = [folder.name for folder in complete(checkpoints)]
    if at == "latest":
        found = latest(checkpoints)
    elif at == "best":
        found = (checkpoints / "best").resolve() if (checkpoints / "best").exists() else None
    else:
        step = at.removeprefix("step-")
        found = step_dir(checkpoints, int(step)) if step.isdigit() else None
    if found is None or found.name not in names:
        there = (
            ", ".join(["latest", *(["best"] if (checkpoints / "best").exists() else []), *names]) if names else "none"
        )
        raise ValueError(f"at={at}: there is no such checkpoint. There are: {there}")
    return found
