"""Which checkpoint a run goes on from: one that is whole, and the same on every process.

Rank 0 alone looks into the index and names a candidate; every process then reads and checks its share of the files,
and all of them hear what any has found.
"""

from pathlib import Path

from distft.checkpoint.format import MANIFEST, step_dir
from distft.checkpoint.index import read_index
from distft.checkpoint.manifest import Damaged, check_file, read_manifest
from distft.checkpoint.read import Checkpoint
from distft.runtime.process_group import World, from_first, texts_of_all


def find(checkpoints: Path, resume: str, world: World) -> Checkpoint | None:
    """Returns the newest undamaged checkpoint for `auto`, the one at a path, or None for `never` or an empty folder.

    What `auto` passes over is printed with the reason. RuntimeError on every process when a named one is damaged.
    """
    if resume == "never":
        return None
    candidates = [Path(resume)] if resume != "auto" else _candidates(checkpoints) if world.is_first else []
    while name := from_first(str(candidates.pop(0)) if candidates else "", world):
        found = [reason for reason in texts_of_all(damage(Path(name), world), world) if reason]
        if not found:
            return Checkpoint(Path(name), world)
        if resume != "auto":
            raise RuntimeError(f"checkpoint.resume={resume} cannot be resumed: {found[0]}")
        print(f"passed over {name}: {found[0]}")
    return None


def _candidates(checkpoints: Path) -> list[Path]:
    """Returns what may be there, newest first; prints what was begun and never came to count."""
    listed = [step_dir(checkpoints, step) for step in reversed(read_index(checkpoints))]
    for folder in listed:
        if not (folder / MANIFEST).is_file():
            print(f"passed over {folder}: it has no {MANIFEST}")
    return [folder for folder in listed if (folder / MANIFEST).is_file()]


def damage(folder: Path, world: World) -> str:
    """Returns what is wrong with this process's share of the files, an empty text when nothing is."""
    try:
        for entry in read_manifest(folder)["files"][world.rank :: world.size]:
            check_file(folder, entry)
    except Damaged as error:
        return str(error)
    return ""
