"""Which checkpoints there are, which one counts, and which may go."""

import shutil
from pathlib import Path

from distft.checkpoint.format import MANIFEST


def complete(checkpoints: Path) -> list[Path]:
    """Returns the published checkpoints, oldest first."""
    return sorted(path.parent for path in checkpoints.glob(f"step-*/{MANIFEST}"))


def latest(checkpoints: Path) -> Path | None:
    """Returns the newest published checkpoint."""
    found = complete(checkpoints)
    return found[-1] if found else None


def retain(checkpoints: Path, keep: int) -> None:
    """Deletes the oldest checkpoints beyond `keep`, but never the one `best` leads to."""
    best = (checkpoints / "best").resolve()
    for folder in complete(checkpoints)[:-keep]:
        if folder.resolve() != best:
            shutil.rmtree(folder)
