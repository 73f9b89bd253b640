"""The saves whose system calls are recorded: `python -m tests.checkpoint.power.saves OUT FOLDER`, on every rank.

Marks, folders made in FOLDER/marks, record what was promised when, and which line requested a sync.
"""

import os
import sys
import traceback
from itertools import count
from pathlib import Path
from typing import Any

from distft.checkpoint.retention import Retention
from distft.checkpoint.save import Saver, Snapshot
from distft.runtime.process_group import World, process_group
from tests.checkpoint.counted import Counted

# attempt -> the step it goes on from, and its saves with whether each is the best
SAVES = [(0, [(1, True), (2, False), (3, True), (4, False), (5, True), (6, False), (7, False)])]
SAVES += [(5, [(6, False), (7, True)])]  # goes on from step 5: 6 is replaced, 7 deleted
KEEP = 2
numbered = count()


def mark(folder: Path, text: str, rank: int) -> None:
    """Leaves a word in the record."""
    (folder / "marks" / f"{next(numbered)}-{rank}-{text}").mkdir()


def tell_callers(folder: Path, rank: int) -> None:
    """Makes every sync of this process be preceded by a mark that names the lines that ask for it."""
    fsync = os.fsync

    def synced(handle: Any) -> None:
        frames = [each for each in traceback.extract_stack() if "/distft/" in each.filename]
        names = [f"{Path(each.filename).stem}.{each.name}" for each in frames if not each.filename.endswith("disk.py")]
        line = next(each.lineno for each in reversed(frames) if not each.filename.endswith("disk.py"))
        mark(folder, f"sync-{' '.join(names[-2:])} {line}", rank)
        fsync(handle)

    os.fsync = synced


def save_all(folder: Path, world: World) -> None:
    checkpoints = folder / "disk" / "run" / "checkpoints"
    engine: Any = Counted(world, rows=6, columns=4)
    for attempt, (start, saves) in enumerate(SAVES):
        mark(folder, f"resume-{start}-{attempt}", world.rank)
        saver = Saver(checkpoints, Retention(KEEP), world, start, Snapshot(world.device) if attempt > 0 else None)
        for step, is_best in saves:
            engine.become(step, attempt)
            mark(folder, f"start-{step}-{attempt}-{int(is_best)}", world.rank)
            saver.start(engine, step, {"attempt": attempt}, is_best)
            saver.finish()
            while world.is_first and list(checkpoints.glob(".*.leaving")):
                pass  # deleted by this thread and another, the order of calls would not be known
            mark(folder, f"saved-{step}-{attempt}-{int(is_best)}", world.rank)


def main() -> None:
    out, folder = map(Path, sys.argv[1:])
    with process_group() as world:
        tell_callers(folder, world.rank)
        if world.is_first:
            (folder / "disk" / "run").mkdir()  # as launch does, which syncs nothing
        save_all(folder, world)
        if world.is_first:
            out.write_text("null")


if __name__ == "__main__":
    main()
