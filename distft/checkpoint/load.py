"""Finds and loads the newest undamaged checkpoint, the same one on every process.

Rank 0 alone reads the index and proposes a candidate. Hashes are checked while the data is read: a separate check
before would read every byte twice.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from distft.checkpoint.choose import candidates
from distft.checkpoint.chunks import ChunkName, state_pieces
from distft.checkpoint.format import (
    EMA,
    MANIFEST,
    PARAMETER,
    Manifest,
    checksums,
    damage_of,
    read_index,
    read_manifest,
    step_dir,
)
from distft.checkpoint.retention import reading
from distft.runtime.process_group import World, from_first
from distft.strategies.engine import Engine, Piece
from distft.tensors.integrity import Damaged
from distft.tensors.regions import Flat, copy
from distft.tensors.safetensors import Stored, read_header, read_headers, tensors_of
from distft.tensors.streaming import Chunk, stream


class Checkpoint:
    """A checkpoint on disk with verified manifest and headers; `verify` and `restore` check the data."""

    def __init__(self, folder: Path, world: World | None = None) -> None:
        """Opens a checkpoint; Damaged on every process when the manifest, a file's size or a header is damaged.

        world: the processes that open it together, each file read by one of them; None: this process alone.
        """
        self.folder = folder
        self.manifest = _manifest(folder, world) if world else read_manifest(folder)
        self.checksums = checksums(folder, self.manifest)
        names = [file.name for file in self.checksums]
        headers = (
            read_headers(folder, names, world, self.checksums)
            if world
            else {file.name: read_header(file, checksum) for file, checksum in self.checksums.items()}
        )
        self.shapes: dict[tuple[str, str], tuple[int, ...]] = {
            (slot, name): tuple(shape)
            for slot, shapes in self.manifest["tensors"].items()
            for name, shape in shapes.items()
        }
        self.chunks: dict[tuple[str, str], list[Chunk]] = defaultdict(list)
        for name, header in headers.items():
            for chunk in self._chunks(tensors_of(folder / name, header)):
                self.chunks[chunk.key].append(chunk)

    def _chunks(self, tensors: Mapping[str, Stored]) -> Iterator[Chunk]:
        for text, stored in tensors.items():
            name = ChunkName.parse(text)
            key = (name.slot, name.name)
            yield Chunk(key, self.shapes[key], name.region(stored.shape), stored)

    @property
    def step(self) -> int:
        return self.manifest["step"]

    @property
    def slots(self) -> set[str]:
        """The names of the optimizer's states, such as `exp_avg`, or `step` with one number per parameter."""
        return {slot for slot, _ in self.chunks} - {PARAMETER, EMA}

    @property
    def names(self) -> list[str]:
        return [name for slot, name in self.chunks if slot == PARAMETER]

    def read(self, name: str, shape: tuple[int, ...], start: int, count: int, slot: str = PARAMETER) -> torch.Tensor:
        """Returns elements start..start+count of a tensor, row-major, as fp32 [count].

        RuntimeError when the checkpoint lacks some.
        """
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


def _manifest(folder: Path, world: World) -> Manifest:
    """Returns on every process the manifest that rank 0 reads."""
    manifest, damage = None, ""
    if world.is_first:
        try:
            manifest = read_manifest(folder)
        except Damaged as error:
            damage = str(error)
    manifest, damage = json.loads(from_first(json.dumps([manifest, damage]), world))
    if damage:
        raise Damaged(damage)
    return manifest


def verify(checkpoint: Checkpoint, world: World) -> None:
    """Reads each block on one process; raises Damaged on every process when a hash differs."""
    stream(_all_chunks(checkpoint), [], world, checkpoint.checksums)


def restore(engine: Engine, checkpoint: Checkpoint, world: World) -> None:
    """Loads trained parameters and optimizer state into `engine`, of any strategy and world size.

    Damaged on every process when a hash differs; then the parameters are undefined and the optimizer state is reset.
    """
    pieces = [piece for piece in engine.pieces() if not piece.frozen]
    had = {id(piece.owner) for piece in pieces if engine.optimizer.state.get(piece.owner)}
    states = [state for piece in pieces for state in _states(engine, piece, checkpoint)]
    try:
        stream(_all_chunks(checkpoint), [*pieces, *states], world, checkpoint.checksums)
    except Damaged:
        _reset_optimizer(engine, pieces, had)
        raise
    engine.refresh()


def _reset_optimizer(engine: Engine, pieces: list[Piece], had: set[int]) -> None:
    """Removes the optimizer state; state that an optimizer `had` before its first step is set back to zero."""
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
    """Yields the optimizer state of `piece` as pieces to fill, allocated where the optimizer has not stepped yet."""
    for slot in (*sorted(checkpoint.slots), EMA):
        shape = checkpoint.shapes.get((slot, piece.name))
        if shape is not None:
            state = engine.optimizer.state[piece.owner]
            if not torch.is_tensor(state.get(slot)) or _shape_of(state[slot], piece) != shape:
                state[slot] = _empty_state(engine, piece, shape)
            yield from state_pieces(piece, slot, state[slot])


def _shape_of(state: torch.Tensor, piece: Piece) -> tuple[int, ...]:
    return piece.shape if state.shape == piece.owner.shape else tuple(state.shape)


def _empty_state(engine: Engine, piece: Piece, shape: tuple[int, ...]) -> torch.Tensor:
    if shape == piece.shape:
        return torch.zeros_like(piece.owner)
    on_device = any(group.get("fused") or group.get("capturable") for group in engine.optimizer.param_groups)
    local = piece.owner.to_local() if isinstance(piece.owner, DTensor) else piece.owner
    return torch.zeros(shape, device=local.device if on_device or shape else "cpu")


Use = Callable[[Checkpoint, World], None]


def find(checkpoints: Path, resume: str, world: World, use: Use = verify) -> Checkpoint | None:
    """Returns the newest undamaged checkpoint by checkpoint.resume; None where there is none to resume from.

    resume: `auto`, `never`, or the path of a checkpoint; with the last two, checkpoints that the run has written since
    come first (`candidates`).
    use: reads the whole checkpoint on every process, and raises Damaged on every one when a hash differs; then the
    next candidate is tried. Skipped checkpoints are printed with the reason.
    RuntimeError on every process when the checkpoint at the path is damaged, or all are: a run that has trained does
    not silently start from scratch.
    """
    skipped: list[str] = []
    listed = candidates(checkpoints, resume) if world.is_first else []
    if world.is_first and resume == "auto":
        _report_uncommitted(checkpoints)
    while name := from_first(str(listed.pop(0)) if listed else "", world):
        try:
            with _held(Path(name), world):
                checkpoint = Checkpoint(Path(name), world)
                use(checkpoint, world)
                return checkpoint
        except Damaged as error:
            if Path(name) == Path(resume):
                raise RuntimeError(f"checkpoint.resume={resume} cannot be resumed: {error}") from error
            skipped.append(f"skipped {name}: {error}")
            print(skipped[-1])
    if skipped and resume != "never":
        first = f"no checkpoint in {checkpoints} can be resumed: {skipped[0]}"
        raise RuntimeError(f"{first}. Try: checkpoint.resume=never, which starts from scratch and deletes them")
    return None


@contextmanager
def _held(folder: Path, world: World) -> Iterator[None]:
    """Holds a read lock on a checkpoint, which may belong to another run, so that it is not deleted.

    A checkpoint that is already deleted raises later, on every process, when its files are read.
    """
    with ExitStack() as held:
        if world.is_first:
            with suppress(Damaged):
                held.enter_context(reading(folder))
        yield


def _report_uncommitted(checkpoints: Path) -> None:
    """Prints what is wrong with the index, and the listed checkpoints that were never committed."""
    if damage := damage_of(checkpoints):
        print(damage)
    for step in reversed(read_index(checkpoints)):
        if not (step_dir(checkpoints, step) / MANIFEST).is_file():
            print(f"skipped {step_dir(checkpoints, step)}: it has no {MANIFEST}")
