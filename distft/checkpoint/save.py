"""Saves an engine: every process its own share, beside the good checkpoints; then rank 0 makes it count.

In the background the share is first copied into host memory, in a buffer that is kept, and written while training
goes on. At the first step border after the last process has written, rank 0's thread makes the checkpoint count, which
is a dozen syncs one after another; at the first border after that all processes know that it does.

On accelerators it is pinned: only then do copies run beside the device's work. It is taken in pieces, because torch's
host allocator rounds each up to a power of two: one of 96 GB would take 128.
Trap: a thread's current device is device 0, whichever its process works on, so what a thread waits for is the event
that was recorded on the stream of its copies, never "the device".
"""

import json
import shutil
from collections.abc import Callable, Sequence
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

from distft.checkpoint.chunks import Saved, chunks_of, write_file
from distft.checkpoint.format import FORMAT, rank_file, read_index, step_dir
from distft.checkpoint.retention import Retention, begin, delete, partial_dir, point, publish, retain
from distft.compat.reach import version_of
from distft.runtime.process_group import World, all_reduce_sum, from_first, texts_of_all
from distft.strategies.engine import Engine

PIECE = 2**26  # numbers: 256 MiB


class Snapshot:
    """Holds one copy of a process's share of the state."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pieces: list[torch.Tensor] = []  # [PIECE] each, but the last

    def warm(self, numbers: int) -> None:
        """Makes room for so many numbers and touches its pages: a first save that had to fault them in would keep
        training waiting several times as long."""
        missing = numbers - sum(piece.numel() for piece in self.pieces)
        if missing > 0 and self.pieces and self.pieces[-1].numel() < PIECE:
            missing += self.pieces.pop().numel()
        while missing > 0:
            piece = torch.empty(min(missing, PIECE), pin_memory=self.device.type != "cpu")
            piece.numpy().fill(0)
            self.pieces.append(piece)
            missing -= piece.numel()

    def take(self, chunks: Sequence[Saved], ready: torch.Event | None) -> list[Saved]:
        """Returns the chunks with copies of their elements, valid until the next call; it waits for the copies.

        ready: recorded by the thread that trains when the state was whole; None on a CPU.
        """
        self.warm(sum(chunk.count for chunk in chunks))
        if ready is None:
            return self._copy(chunks)
        with torch.Stream(self.device) as beside:  # the copies run while the device computes
            beside.wait_event(ready)
            copies = self._copy(chunks)
            done = torch.Event(self.device)
            done.record(beside)
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
                    given, part = part[: place.numel()], part[place.numel() :]
                    if given.device.type == "cpu":  # one thread fills the memory's width, OpenMP's would wait for cores
                        place.numpy()[:] = given.float().numpy()
                    else:
                        place.copy_(given, non_blocking=True)
                    places.append(place)
                    at += place.numel()
            copies.append(replace(chunk, data=tuple(places)))
        return copies


T = TypeVar("T")


class SaveFailed(RuntimeError):
    """A checkpoint could not be written; the older ones are untouched and nothing is left of it."""


@dataclass
class Pending:
    """A checkpoint on its way to disk."""

    step: int
    is_best: bool
    about: dict[str, Any]
    tensors: dict[str, Any]  # slot -> parameter -> shape, of those whose first element is written here
    numbers: int  # written here, of all tensors
    entry: Future[dict[str, Any]]  # of the share of this process
    counts: Future[None] | None = None  # from when all have written; where that is not rank 0's, it is done

    @property
    def under_way(self) -> Future[Any]:
        """What this process does for it at the moment."""
        return self.counts or self.entry


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
        """start_step: of the checkpoint that the run goes on from; newer ones are of a history it has left.

        snapshot: what a save in the background is copied to; None: saves are not in the background.
        """
        self.checkpoints, self.retention, self.world = checkpoints, retention, world
        self.superseded = {step for step in read_index(checkpoints) if step > start_step} if world.is_first else set()
        self.snapshot = snapshot
        self.writer = ThreadPoolExecutor(1, "writer", initializer=world.enter_device) if snapshot else None
        self.cleaner = ThreadPoolExecutor(1)  # deleting takes as long as writing half of it
        self.deleting: list[tuple[Future[None], list[Path]]] = []  # by that thread
        self.copied = Event()  # the state may change again
        self.copied.set()
        self.pending: Pending | None = None
        self.saved_step = start_step

    def start(self, engine: Engine, step: int, about: dict[str, Any], is_best: bool = False) -> None:
        """Saves the engine's state at `step`; in the background it returns at once, and the state must not change
        before `wait_copied` returns.

        SaveFailed on every process when this one, or the one before it in the background, cannot be written.
        """
        self.finish()
        chunks = list(chunks_of(engine))
        numbers = sum(chunk.count for chunk in chunks)
        everyones = all_reduce_sum(torch.tensor([numbers], device=self.world.device)).item()
        self._agree(_attempt(self._begin, step, 4 * int(everyones)) if self.world.is_first else "", step)
        file = partial_dir(self.checkpoints, step) / rank_file(self.world.rank)
        tensors: dict[str, Any] = {}
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
        """Waits until a save in the background has copied the state, which the next update would change."""
        self.copied.wait()

    def _begin(self, step: int, size: int) -> None:
        """Makes the folder to write into; OSError where `size` bytes have no room: filled to the last byte, the disk
        would take no metrics either, and they end the run."""
        self.deleting = [each for each in self.deleting if not each[0].done()]
        begin(self.checkpoints, step, [folder for _, folders in self.deleting for folder in folders])
        free = shutil.disk_usage(self.checkpoints).free
        if free < size and self.deleting:
            wait([future for future, _ in self.deleting])
            free = shutil.disk_usage(self.checkpoints).free
        if free < size:
            few = f"{size / 2**20:,.1f} MiB are needed, {free / 2**20:,.1f} MiB are free"
            raise OSError(ENOSPC, f"{strerror(ENOSPC)}: {few}", str(self.checkpoints))

    @property
    def is_written(self) -> bool:
        """Whether what this process does for the last checkpoint has got to disk, or failed to: its share, and then,
        on rank 0, what makes it count. When it is so on all, or failed on one, `advance` is due."""
        return self.pending is not None and self.pending.under_way.done()

    @property
    def is_failed(self) -> bool:
        """Whether this process could not do it."""
        return self.pending is not None and self.is_written and self.pending.under_way.exception() is not None

    def finish(self) -> None:
        """Waits until the last checkpoint counts; SaveFailed on every process when one could not write."""
        while self.pending:
            self.advance()

    def advance(self) -> None:
        """Takes the last checkpoint on: from written by all to being made to count, and from there to its end.

        Waits where that is not written yet; SaveFailed on every process when one could not write.
        """
        if self.pending is None:
            return
        pending, self.pending = self.pending, None
        if pending.counts is None:
            pending.counts = self._make_count(pending)
            self.pending = pending
        else:
            self._agree(_attempt(pending.counts.result) if self.world.is_first else "", pending.step)
            self.saved_step = pending.step

    def _make_count(self, pending: Pending) -> Future[None]:
        """Returns what rank 0 does when all have written; SaveFailed on every process when one could not."""
        mine: dict[str, Any] = {"tensors": pending.tensors, "numbers": pending.numbers, "entry": {}, "error": ""}
        try:
            mine["entry"] = pending.entry.result()
        except OSError as error:
            mine["error"] = str(error)
        told = [json.loads(text) for text in texts_of_all(json.dumps(mine), self.world)]
        self._agree(next((each["error"] for each in told if each["error"]), ""), pending.step)
        tensors = _whole_tensors(told)
        if not self.world.is_first:
            return _done(lambda: None)
        commit = partial(self._commit, pending, told, tensors)
        return self.writer.submit(commit) if self.writer else _done(commit)

    def _commit(self, pending: Pending, told: list[dict[str, Any]], tensors: dict[str, Any]) -> None:
        body = {
            "format": FORMAT,
            "step": pending.step,
            "world": self.world.size,
            "versions": {name: version_of(name) for name in ("distft", "torch", "transformers", "deepspeed")},
            **pending.about,
            "dtype": "F32",
            "tensors": tensors,
            "files": [each["entry"] for each in told],
        }
        publish(self.checkpoints, pending.step, body)
        self._tidy(pending)

    def _tidy(self, pending: Pending) -> None:
        """Marks the best and takes away what is kept no longer; what fails is told and left to the next save, because
        the checkpoint counts already."""
        folder = step_dir(self.checkpoints, pending.step)
        try:
            if pending.is_best:
                point(self.checkpoints / "best", folder)
            gone = retain(self.checkpoints, self.retention, self.superseded - {pending.step})
        except OSError as error:
            print(f"{folder} is saved, but could not be made the best, or older ones taken away: {error}")
            return
        self.superseded = set()
        self.deleting.append((self.cleaner.submit(delete, gone), gone))

    def _ready(self) -> torch.Event | None:
        """Returns the moment on the device's stream from which on the state is whole; None on a CPU."""
        if self.world.device.type == "cpu":
            return None
        event = torch.Event(self.world.device)
        event.record()
        return event

    def _write_copy(
        self, snapshot: Snapshot, file: Path, chunks: Sequence[Saved], ready: torch.Event | None
    ) -> dict[str, Any]:
        try:
            copies = snapshot.take(chunks, ready)
        finally:
            self.copied.set()
        return write_file(file, copies)

    def _agree(self, error: str, step: int) -> None:
        """Raises SaveFailed on every process for rank 0's error, and removes what was written."""
        error = from_first(error, self.world)
        if error:
            if self.world.is_first:
                shutil.rmtree(partial_dir(self.checkpoints, step), ignore_errors=True)
            dist.barrier()
            raise SaveFailed(f"{step_dir(self.checkpoints, step)} could not be saved: {error}")


def _whole_tensors(told: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns slot -> parameter -> shape; all elements of all of them have been written, each once."""
    tensors: dict[str, Any] = {}
    for each in told:
        for slot, shapes in each["tensors"].items():
            tensors.setdefault(slot, {}).update(shapes)
    written = sum(each["numbers"] for each in told)
    numbers = sum(prod(shape) for shapes in tensors.values() for shape in shapes.values())
    assert written == numbers, f"{written} numbers were written of tensors that have {numbers}"
    return tensors


def _done(function: Callable[[], T]) -> Future[T]:
    """Returns what the function returned, or its error of the filesystem."""
    future: Future[T] = Future()
    try:
        future.set_result(function())
    except OSError as error:
        future.set_exception(error)
    return future


def _attempt(function: Any, *arguments: Any) -> str:
    """Returns the error of the filesystem, or an empty text."""
    try:
        function(*arguments)
    except OSError as error:
        return str(error)
    return ""
