"""Saves an engine: each process writes its own share to a partial folder, then rank 0 commits the checkpoint.

A background save first copies the share into a reused host buffer, and writes it while training continues. At the
first step border after all processes have written, a thread of rank 0 commits the checkpoint, which takes about a
dozen syncs; at the first border after that, all processes know that it is committed.

On accelerators the buffer is pinned: only then do copies overlap with the device's work. It is allocated in pieces,
because torch's host allocator rounds each allocation up to a power of two: 96 GB in one piece would take 128 GB.
Trap: the current device of a new thread is device 0, whatever device its process uses. So a thread waits for the event
recorded on the stream of its copies, never for "the device".
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from errno import ENOSPC
from functools import partial
from math import prod
from os import strerror
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from distft.checkpoint.chunks import FileEntry, Saved, chunks_of, write_file
from distft.checkpoint.format import FORMAT, rank_file, read_index, step_dir
from distft.checkpoint.retention import Retention, begin, delete, partial_dir, point, publish, retain
from distft.compat.reach import version_of
from distft.runtime.process_group import World, all_reduce_sum, from_first, texts_of_all
from distft.strategies.engine import Engine

PIECE = 2**26  # numbers: 256 MiB


class Snapshot:
    """A reused host buffer with a copy of a process's share of the state."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pieces: list[torch.Tensor] = []  # [PIECE] each, but the last

    def reserve(self, numbers: int) -> None:
        """Allocates space for `numbers` elements and touches its pages.

        A first save that faults the pages in would block training several times as long.
        """
        missing = numbers - sum(piece.numel() for piece in self.pieces)
        if missing > 0 and self.pieces and self.pieces[-1].numel() < PIECE:
            missing += self.pieces.pop().numel()
        while missing > 0:
            piece = torch.empty(min(missing, PIECE), pin_memory=self.device.type != "cpu")
            piece.numpy().fill(0)
            self.pieces.append(piece)
            missing -= piece.numel()

    def take(self, chunks: Sequence[Saved], ready: torch.Event | None) -> list[Saved]:
        """Returns the chunks with copied elements, valid until the next call; waits for the copies.

        ready: event recorded by the training thread when the state was complete; None on a CPU.
        """
        self.reserve(sum(chunk.count for chunk in chunks))
        if ready is None:
            return self._copy(chunks)
        with torch.Stream(self.device) as copy_stream:  # the copies overlap with computation
            copy_stream.wait_event(ready)
            copies = self._copy(chunks)
            done = torch.Event(self.device)
            done.record(copy_stream)
        done.synchronize()
        return copies

    def _copy(self, chunks: Sequence[Saved]) -> list[Saved]:
        copies, at, index = [], 0, 0
        for chunk in chunks:
            places = []
            for part in chunk.data:
                while part.numel():
                    if at == self.pieces[index].numel():
                        at, index = 0, index + 1
                    place = self.pieces[index][at : at + part.numel()]
                    source, part = part[: place.numel()], part[place.numel() :]
                    if (
                        source.device.type == "cpu"
                    ):  # one thread saturates the memory bandwidth; OpenMP threads would wait for cores
                        place.numpy()[:] = source.float().numpy()
                    else:
                        place.copy_(source, non_blocking=True)
                    places.append(place)
                    at += place.numel()
            copies.append(replace(chunk, data=tuple(places)))
        return copies


T = TypeVar("T")
Shapes = dict[str, dict[str, Sequence[int]]]  # slot -> parameter -> shape


@dataclass(frozen=True)
class Share:
    """What one process reports to the others when it has written its file, sent as JSON."""

    tensors: Shapes  # of the tensors whose first element it wrote
    numbers: int  # elements that it wrote
    entry: FileEntry
    error: str  # empty: none


class SaveFailed(RuntimeError):
    """A checkpoint could not be written; its files are deleted, older checkpoints are unchanged."""


@dataclass
class Pending:
    """A checkpoint that is being saved."""

    step: int
    is_best: bool
    about: Mapping[str, Any]  # further keys of the manifest
    tensors: Shapes  # of the tensors whose first element this process writes
    numbers: int  # elements that this process writes, of all tensors
    entry: Future[FileEntry]  # of this process's file
    committed: Future[None] | None = None  # set when all have written; the commit of rank 0, done at once on others

    @property
    def current(self) -> Future[Any]:
        """The work of this process in progress: its file, then the commit."""
        return self.committed or self.entry


class Saver:
    """Writes one checkpoint at a time; every process calls each method at the same steps."""

    def __init__(
        self,
        checkpoints: Path,
        retention: Retention,
        world: World,
        start_step: int = 0,
        snapshot: Snapshot | None = None,
    ) -> None:
        """start_step: the step that the run resumes from; newer checkpoints belong to an abandoned history.

        snapshot: the buffer of background saves; None: saves block training.
        """
        self.checkpoints, self.retention, self.world = checkpoints, retention, world
        self.superseded = {step for step in read_index(checkpoints) if step > start_step} if world.is_first else set()
        self.snapshot = snapshot
        self.writer = ThreadPoolExecutor(1, "writer", initializer=world.enter_device) if snapshot else None
        self.cleaner = ThreadPoolExecutor(1)  # deleting takes half as long as writing
        self.deleting: list[tuple[Future[None], list[Path]]] = []  # by the cleaner
        self.copied = Event()  # set: the state may change
        self.copied.set()
        self.pending: Pending | None = None
        self.saved_step = start_step

    def start(self, engine: Engine, step: int, about: Mapping[str, Any], is_best: bool = False) -> None:
        """Saves the engine's state at `step`.

        A background save returns at once, and the state must not change before `wait_copied` returns.
        SaveFailed on every process when this checkpoint, or the previous one in the background, cannot be written.
        """
        self.finish()
        chunks = list(chunks_of(engine))
        numbers = sum(chunk.count for chunk in chunks)
        total = all_reduce_sum(torch.tensor([numbers], device=self.world.device)).item()
        self._agree(_os_error(self._begin, step, 4 * int(total)) if self.world.is_first else "", step)
        file = partial_dir(self.checkpoints, step) / rank_file(self.world.rank)
        tensors: Shapes = {}
        for chunk in chunks:
            if chunk.is_first:
                tensors.setdefault(chunk.name.slot, {})[chunk.name.name] = chunk.shape
        if self.writer and self.snapshot:
            self.copied.clear()
            entry = self.writer.submit(self._write_copy, self.snapshot, file, chunks, self._ready())
        else:
            entry = _done(lambda: write_file(file, chunks))
        self.pending = Pending(step, is_best, about, tensors, numbers, entry)
        if not self.writer:
            self.finish()

    def wait_copied(self) -> None:
        """Waits until a background save has copied the state; the next update changes it."""
        self.copied.wait()

    def _begin(self, step: int, size: int) -> None:
        """Makes the folder to write into; OSError where `size` bytes do not fit.

        On a full disk metrics could not be written either, which would end the run.
        """
        self.deleting = [(future, folders) for future, folders in self.deleting if not future.done()]
        begin(self.checkpoints, step, [folder for _, folders in self.deleting for folder in folders])
        free = shutil.disk_usage(self.checkpoints).free
        if free < size and self.deleting:
            wait([future for future, _ in self.deleting])
            free = shutil.disk_usage(self.checkpoints).free
        if free < size:
            needs = f"{size / 2**20:,.1f} MiB are needed, {free / 2**20:,.1f} MiB are free"
            raise OSError(ENOSPC, f"{strerror(ENOSPC)}: {needs}", str(self.checkpoints))

    @property
    def is_written(self) -> bool:
        """Whether the current work of this process is done or failed: its file, then on rank 0 the commit.

        When it is done on all processes, or failed on one, `advance` is due.
        """
        return self.pending is not None and self.pending.current.done()

    @property
    def is_failed(self) -> bool:
        """Whether the current work of this process failed."""
        return self.pending is not None and self.is_written and self.pending.current.exception() is not None

    def finish(self) -> None:
        """Waits until the last checkpoint is committed; SaveFailed on every process when one could not write."""
        while self.pending:
            self.advance()

    def advance(self) -> None:
        """Moves the last checkpoint one stage on: from written to committing, from committing to committed.

        Waits for the current stage; SaveFailed on every process when one could not write.
        """
        if self.pending is None:
            return
        pending, self.pending = self.pending, None
        if pending.committed is None:
            pending.committed = self._start_commit(pending)
            self.pending = pending
        else:
            self._agree(_os_error(pending.committed.result) if self.world.is_first else "", pending.step)
            self.saved_step = pending.step

    def _start_commit(self, pending: Pending) -> Future[None]:
        """Waits until all processes have written, and starts the commit on rank 0.

        SaveFailed on every process when one could not write.
        """
        entry, error = {}, ""
        try:
            entry = pending.entry.result()
        except OSError as failure:
            error = str(failure)
        own = json.dumps(vars(Share(pending.tensors, pending.numbers, entry, error)))
        shares = [Share(**json.loads(text)) for text in texts_of_all(own, self.world)]
        self._agree(next((share.error for share in shares if share.error), ""), pending.step)
        tensors = _whole_tensors(shares)
        if not self.world.is_first:
            return _done(lambda: None)
        commit = partial(self._commit, pending, shares, tensors)
        return self.writer.submit(commit) if self.writer else _done(commit)

    def _commit(self, pending: Pending, shares: list[Share], tensors: Shapes) -> None:
        body = {
            "format": FORMAT,
            "step": pending.step,
            "world": self.world.size,
            "versions": {name: version_of(name) for name in ("distft", "torch", "transformers", "deepspeed")},
            **pending.about,
            "dtype": "F32",
            "tensors": tensors,
            "files": [share.entry for share in shares],
        }
        publish(self.checkpoints, pending.step, body)
        self._apply_retention(pending)

    def _apply_retention(self, pending: Pending) -> None:
        """Updates the link `best` and applies retention.

        An error is printed and left to the next save, because the checkpoint is already committed.
        """
        folder = step_dir(self.checkpoints, pending.step)
        try:
            if pending.is_best:
                point(self.checkpoints / "best", folder)
            gone = retain(self.checkpoints, self.retention, self.superseded - {pending.step})
        except OSError as error:
            print(f"{folder} is saved, but updating `best` or removing older checkpoints failed: {error}")
            return
        self.superseded = set()
        self.deleting.append((self.cleaner.submit(delete, gone), gone))

    def _ready(self) -> torch.Event | None:
        """Returns an event on the device's stream after which the state is complete; None on a CPU."""
        if self.world.device.type == "cpu":
            return None
        event = torch.Event(self.world.device)
        event.record()
        return event

    def _write_copy(
        self, snapshot: Snapshot, file: Path, chunks: Sequence[Saved], ready: torch.Event | None
    ) -> FileEntry:
        try:
            copies = snapshot.take(chunks, ready)
        finally:
            self.copied.set()
        return write_file(file, copies)

    def _agree(self, error: str, step: int) -> None:
        """Deletes the written files and raises SaveFailed on every process when rank 0 has an error."""
        error = from_first(error, self.world)
        if error:
            if self.world.is_first:
                shutil.rmtree(partial_dir(self.checkpoints, step), ignore_errors=True)
            dist.barrier()
            raise SaveFailed(f"{step_dir(self.checkpoints, step)} could not be saved: {error}")


def _whole_tensors(shares: list[Share]) -> Shapes:
    """Merges the shapes of all shares; asserts that every element of every tensor was written once."""
    tensors: Shapes = {}
    for share in shares:
        for slot, shapes in share.tensors.items():
            tensors.setdefault(slot, {}).update(shapes)
    written = sum(share.numbers for share in shares)
    numbers = sum(prod(shape) for shapes in tensors.values() for shape in shapes.values())
    assert written == numbers, f"{written} of {numbers} elements were written"
    return tensors


def _done(function: Callable[[], T]) -> Future[T]:
    """Calls the function now; returns a finished future with its result or its OSError."""
    future: Future[T] = Future()
    try:
        future.set_result(function())
    except OSError as error:
        future.set_exception(error)
    return future


def _os_error(function: Any, *arguments: Any) -> str:
    """Calls the function; returns the text of its OSError, else an empty text."""
    try:
        function(*arguments)
    except OSError as error:
        return str(error)
    return ""
