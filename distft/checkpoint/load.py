"""Which checkpoint a run goes on from: one that is whole, and the same on every process.

Rank 0 alone looks into the index and names a candidate. What is wrong with its bytes is told by whoever reads them,
while they are read: a check beforehand would ask the filesystem for everything twice.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from distft.checkpoint.choose import candidates
from distft.checkpoint.chunks import ChunkName, state_pieces
from distft.checkpoint.format import MANIFEST, PARAMETER, damage_of, read_index, read_manifest, seals, step_dir
from distft.checkpoint.retention import reading
from distft.runtime.process_group import World, from_first
from distft.strategies.engine import Engine, Piece
from distft.tensors.integrity import Damaged
from distft.tensors.regions import Flat, copy
from distft.tensors.safetensors import read_header, read_headers, tensors_of
from distft.tensors.streaming import Chunk, stream


class Checkpoint:
    """A checkpoint on disk whose manifest and headers, read here, are what was written; its data is checked by those
    who read all of it."""

    def __init__(self, folder: Path, world: World | None = None) -> None:
        """world: the processes that open it together, each file read by one of them; None: this one alone.

        Damaged, on every process, when the manifest, or a file's size or header, is not what was written.
        """
        self.folder = folder
        self.manifest = _manifest(folder, world) if world else read_manifest(folder)
        self.seals = seals(folder, self.manifest)
        names = [file.name for file in self.seals]
        headers = (
            read_headers(folder, names, world, self.seals)
            if world
            else {file.name: read_header(file, seal) for file, seal in self.seals.items()}
        )
        self.shapes: dict[tuple[str, str], tuple[int, ...]] = {
            (slot, name): tuple(shape)
            for slot, shapes in self.manifest["tensors"].items()
            for name, shape in shapes.items()
        }
        self.chunks: dict[tuple[str, str], list[Chunk]] = defaultdict(list)
        for name, header in headers.items():
            for chunk in self._chunks(folder / name, header):
                self.chunks[chunk.key].append(chunk)

    def _chunks(self, file: Path, header: dict[str, Any]) -> Iterator[Chunk]:
        for text, stored in tensors_of(file, header).items():
            name = ChunkName.parse(text)
            key = (name.slot, name.name)
            yield Chunk(key, self.shapes[key], name.region(stored.shape), stored)

    @property
    def step(self) -> int:
        return self.manifest["step"]

    @property
    def slots(self) -> set[str]:
        """The optimizer's states, such as `exp_avg` and, one number a parameter, `step`."""
        return {slot for slot, _ in self.chunks} - {PARAMETER}

    @property
    def names(self) -> list[str]:
        return [name for slot, name in self.chunks if slot == PARAMETER]

    def read(self, name: str, shape: tuple[int, ...], start: int, count: int, slot: str = PARAMETER) -> torch.Tensor:
        """Returns elements start..start+count of a tensor, row-major, as fp32 [count]."""
        found, filled, wanted = torch.empty(count), 0, Flat(start, count)
        for chunk in self.chunks[slot, name]:
            first, number = 0, chunk.region.count
            if isinstance(chunk.region, Flat):
                first = max(0, start - chunk.region.start)
                number = min(number, start + count - chunk.region.start) - first
            if number > 0:
                boxes = list(chunk.region.cut(chunk.shape, first, number))
                filled += copy(chunk.stored.read(first, number), boxes, found, wanted, chunk.shape)
        if filled != count:
            raise RuntimeError(f"{self.folder} lacks {count - filled} elements of {slot} {name}")
        return found


def _manifest(folder: Path, world: World) -> dict[str, Any]:
    """Returns the manifest, which rank 0 reads, on every process."""
    told: dict[str, Any] = {}
    if world.is_first:
        try:
            told = {"manifest": read_manifest(folder)}
        except Damaged as error:
            told = {"damaged": str(error)}
    told = json.loads(from_first(json.dumps(told), world))
    if "damaged" in told:
        raise Damaged(told["damaged"])
    return told["manifest"]


def verify(checkpoint: Checkpoint, world: World) -> None:
    """Raises Damaged on every process unless each byte is what was written; each is read by one of them."""
    stream(_all_chunks(checkpoint), [], world, checkpoint.seals)


def restore(engine: Engine, checkpoint: Checkpoint, world: World) -> None:
    """Fills trained parameters and optimizer state of `engine`, of any strategy on any number of processes.

    Damaged on every process when a byte is not what was written: then the parameters hold anything, and the optimizer
    is one that has not stepped.
    """
    pieces = [piece for piece in engine.pieces() if not piece.frozen]
    had = {id(piece.owner) for piece in pieces if engine.optimizer.state.get(piece.owner)}
    states = [state for piece in pieces for state in _states(engine, piece, checkpoint)]
    try:
        stream(_all_chunks(checkpoint), [*pieces, *states], world, checkpoint.seals)
    except Damaged:
        _forget(engine, pieces, had)
        raise
    engine.refresh()


def _forget(engine: Engine, pieces: list[Piece], had: set[int]) -> None:
    """Takes away the optimizer's state; what it `had` before its first step, as some make it, was zero."""
    for piece in pieces:
        if id(piece.owner) not in had:
            engine.optimizer.state.pop(piece.owner, None)
    for state in engine.optimizer.state.values():
        for value in state.values():
            if torch.is_tensor(value):
                value.zero_()


def _all_chunks(checkpoint: Checkpoint) -> list[Chunk]:
    return [chunk for chunks in checkpoint.chunks.values() for chunk in chunks]


def _states(engine: Engine, piece: Piece, checkpoint: Checkpoint) -> Iterator[Piece]:
    """Yields the optimizer's state for `piece` as pieces to fill, made where the optimizer has not stepped yet."""
    for slot in checkpoint.slots:
        shape = checkpoint.shapes.get((slot, piece.name))
        if shape is not None:
            state = engine.optimizer.state[piece.owner]
            if not torch.is_tensor(state.get(slot)) or _shape_there(state[slot], piece) != shape:
                state[slot] = _empty_state(engine, piece, shape)
            yield from state_pieces(piece, slot, state[slot])


def _shape_there(state: torch.Tensor, piece: Piece) -> tuple[int, ...]:
    return piece.shape if state.shape == piece.owner.shape else tuple(state.shape)


def _empty_state(engine: Engine, piece: Piece, shape: tuple[int, ...]) -> torch.Tensor:
    if shape == piece.shape:
        return torch.zeros_like(piece.owner)
    on_device = any(group.get("fused") or group.get("capturable") for group in engine.optimizer.param_groups)
    local = piece.owner.to_local() if isinstance(piece.owner, DTensor) else piece.owner
    return torch.zeros(shape, device=local.device if on_device or shape else "cpu")


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
