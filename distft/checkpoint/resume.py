"""Which checkpoint a run goes on from: one that is whole, and the same on every process.

Rank 0 alone looks into the index and names a candidate. What is wrong with its bytes is told by whoever reads them,
while they are read: a check beforehand would ask the filesystem for everything twice.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from distft.checkpoint.choose import candidates
from distft.checkpoint.format import MANIFEST, step_dir
from distft.checkpoint.index import damage_of, read_index
from distft.checkpoint.keep import reading
from distft.checkpoint.read import Checkpoint, verify
from distft.runtime.process_group import World, from_first
from distft.runtime.seals import Damaged

Use = Callable[[Checkpoint, World], None]


def find(checkpoints: Path, resume: str, world: World, use: Use = verify) -> Checkpoint | None:
    """Returns the newest undamaged checkpoint for `auto`, the one at a path, or None for `never` or an empty folder;
    of a run that was told a path or `never` the newest that it has written since.

    use: reads the whole checkpoint on every process, and raises Damaged on every one when a byte is not what was
    written; then the next one is taken. What is passed over is printed with the reason. RuntimeError on every process
    when a named one is damaged, or all of them: a run that has trained never starts anew unasked.
    """
    passed_over: list[str] = []
    listed = candidates(checkpoints, resume) if world.is_first else []
    if world.is_first and resume == "auto":
        _tell_unlisted(checkpoints)
    while name := from_first(str(listed.pop(0)) if listed else "", world):
        try:
            with _held(Path(name), world):
                checkpoint = Checkpoint(Path(name), world)
                use(checkpoint, world)
                return checkpoint
        except Damaged as error:
            if Path(name) == Path(resume):
                raise RuntimeError(f"checkpoint.resume={resume} cannot be resumed: {error}") from error
            passed_over.append(f"passed over {name}: {error}")
            print(passed_over[-1])
    if passed_over and resume != "never":
        first = f"no checkpoint in {checkpoints} can be resumed: {passed_over[0]}"
        raise RuntimeError(f"{first}. Try: checkpoint.resume=never, which starts anew and deletes them")
    return None


@contextmanager
def _held(folder: Path, world: World) -> Iterator[None]:
    """Keeps a checkpoint, which may be of another run, from being deleted; that it is gone already is told by whoever
    reads it, on every process."""
    with ExitStack() as held:
        if world.is_first:
            with suppress(Damaged):
                held.enter_context(reading(folder))
        yield


def _tell_unlisted(checkpoints: Path) -> None:
    """Prints what is wrong with the index, and what was begun and never came to count."""
    if damage := damage_of(checkpoints):
        print(damage)
    for step in reversed(read_index(checkpoints)):
        if not (step_dir(checkpoints, step) / MANIFEST).is_file():
            print(f"passed over {step_dir(checkpoints, step)}: it has no {MANIFEST}")
