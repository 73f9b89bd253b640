"""Which checkpoint a run goes on from: one that is whole, and the same on every process.

Rank 0 alone looks into the index and names a candidate; every process then reads and checks its share of the files,
and all of them hear what any has found.
"""

from pathlib import Path

from distft.checkpoint.choose import candidates
from distft.checkpoint.format import MANIFEST, step_dir
from distft.checkpoint.index import read_index
from distft.checkpoint.manifest import Damaged, check_file, read_manifest
from distft.checkpoint.read import Checkpoint
from distft.runtime.process_group import World, from_first, texts_of_all


def find(checkpoints: Path, resume: str, world: World) -> Checkpoint | None:
    """Returns the newest undamaged checkpoint for `auto`, the one at a path, or None for `never` or an empty folder.

    What is passed over is printed with the reason. RuntimeError on every process when a named one is damaged.
    """
    listed = candidates(checkpoints, resume) if world.is_first else []
    if world.is_first and resume == "auto":
        _tell_unpublished(checkpoints)
    while name := from_first(str(listed.pop(0)) if listed else "", world):
        found = [reason for reason in texts_of_all(damage(Path(name), world), world) if reason]
        if not found:
            return Checkpoint(Path(name), world)
        if Path(name) == Path(resume):
            raise RuntimeError(f"checkpoint.resume={resume} cannot be resumed: {found[0]}")
        print(f"passed over {name}: {found[0]}")
    return None


def _tell_unpublished(checkpoints: Path) -> None:
    """Prints what was begun and never came to count."""
    for step in reversed(read_index(checkpoints)):
        if not (step_dir(checkpoints, step) / MANIFEST).is_file():
            print(f"passed over {step_dir(checkpoints, step)}: it has no {MANIFEST}")


def damage(folder: Path, world: World) -> str:
    """Returns what is wrong with this process's share of the files, an empty text when nothing is."""
    try:
        for entry in read_manifest(folder)["files"][world.rank :: world.size]:
            check_file(folder, entry)
    except Damaged as error:
        return str(error)
    return ""
