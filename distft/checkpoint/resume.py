"""Which checkpoint a run goes on from: one that is whole, and the same on every process.

Rank 0 looks into the folder and names a candidate; every process then reads and checks its share of the files, and
all of them hear what any has found.
"""

from pathlib import Path

from distft.checkpoint.format import MANIFEST
from distft.checkpoint.keep import complete
from distft.checkpoint.manifest import Damaged, check_file, read_manifest
from distft.checkpoint.read import Checkpoint
from distft.runtime.process_group import World, from_first, texts_of_all


def find(checkpoints: Path, resume: str, world: World) -> Checkpoint | None:
    """Returns the newest undamaged checkpoint for `auto`, the one at a path, or None for `never` or an empty folder.

    What `auto` passes over is printed with the reason. RuntimeError on every process when a named one is damaged.
    """
    if resume == "never":
        return None
    candidates = [Path(resume)] if resume != "auto" else list(reversed(complete(checkpoints)))
    if resume == "auto" and world.is_first:
        for folder in sorted(checkpoints.glob("step-*")):
            if not (folder / MANIFEST).is_file():
                print(f"passed over {folder}: it has no {MANIFEST}")
    while name := from_first(str(candidates.pop(0)) if candidates else "", world):
        found = [reason for reason in texts_of_all(damage(Path(name), world), world) if reason]
        if not found:
            return Checkpoint(Path(name))
        if resume != "auto":
            raise RuntimeError(f"checkpoint.resume={resume} cannot be resumed: {found[0]}")
        print(f"passed over {name}: {found[0]}")
    return None


def damage(folder: Path, world: World) -> str:
    """Returns what is wrong with this process's share of the files, an empty text when nothing is."""
    try:
        for entry in read_manifest(folder)["files"][world.rank :: world.size]:
            check_file(folder, entry)
    except Damaged as error:
        return str(error)
    return ""
