"""A run goes back to its newest checkpoint and on behind the rows that spoilt it.

Where a run reads on is the manifest's to say, so the window is skipped by writing that anew, in one rename: whoever
resumes from the checkpoint, here or after a restart, reads the same rows.
"""

from pathlib import Path
from typing import Any

from distft.checkpoint.choose import candidates
from distft.checkpoint.manifest import read_manifest, write_manifest


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
