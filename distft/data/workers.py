"""Worker processes of the data stage: each makes chunks of blocks, and imports no torch.

The parent reads the sources and sends each block to the next idle worker, so a slow block delays no other. Workers are
started when there is enough work: a small data set is finished before they would have imported their libraries.
Trap: tokenizers starts a thread per core in each process unless TOKENIZERS_PARALLELISM is false.
"""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

from distft.data.blocks import Block
from distft.data.chunks import Chunk, chunk_path, write_chunk
from distft.data.formats import Format
from distft.data.pipeline import OpenSource, RowPipeline
from distft.data.publish import Interrupted
from distft.runtime.process import start_bound

ALONE_SECONDS = 3.0  # how long one process works before others are started, about what their imports take
MAX_PROCESSES = 32  # unless data.num_proc requests more
ONE_THREAD = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
PROGRAM = "import sys; from distft.data.workers import serve; serve(int(sys.argv[1]))"


@dataclass(frozen=True)
class Task:
    """A block to make into a chunk."""

    stream: str
    block: Block
    path: Path


@dataclass
class Worker:
    """A worker process; `task` is what it works on."""

    process: subprocess.Popen[str]
    connection: Connection
    task: Task | None = None


@dataclass
class Workers:
    """Makes the chunks of the streams of a pipeline, with up to `num_proc` processes."""

    pipeline: RowPipeline
    forms: dict[str, list[Format]]  # of each stream
    num_proc: int | None  # None: as many as there are cores, once the work takes longer than ALONE_SECONDS
    started: float = field(default_factory=time.monotonic)
    _workers: list[Worker] = field(default_factory=list)

    def chunks(self, opened: OpenSource, folder: Path, progress: Callable[[int], None]) -> list[Chunk]:
        """Returns the chunks of a stream in order; those that `folder` has already are not made again.

        Raises the error of the first block that fails; Interrupted where a worker was killed.
        """
        paths = []
        for block in opened.blocks:
            path = chunk_path(folder, opened.key, block.index)
            paths.append(path)
            if path.is_file():
                progress(Chunk(path).counts["stream"]["read"])
                continue
            task = Task(opened.key, block, path)
            worker = self._idle(progress)
            if worker is None:
                progress(make_chunk(self.pipeline, self.forms, task))
            else:
                worker.task = task
                self._send(worker, task)
        self._finish(progress)
        return [Chunk(path) for path in paths]

    def _idle(self, progress: Callable[[int], None]) -> Worker | None:
        """Returns a worker without a task, after waiting for one; None while this process works alone."""
        limit = self.num_proc or min(usable_cores(), MAX_PROCESSES)
        if limit == 1 or (self.num_proc is None and time.monotonic() - self.started < ALONE_SECONDS):
            return None
        idle = next((worker for worker in self._workers if worker.task is None), None)
        if idle is None and len(self._workers) < limit:
            idle = self._start()
        return idle or self._receive(progress)

    def _receive(self, progress: Callable[[int], None]) -> Worker:
        """Waits for a worker to finish its task, and returns it."""
        [ready, *_] = wait([worker.connection for worker in self._workers if worker.task])
        worker = next(each for each in self._workers if each.connection is ready)
        try:
            answer = worker.connection.recv()
        except (EOFError, ConnectionError):
            raise self._death(worker) from None
        if isinstance(answer, Exception):
            raise self._first_error(worker, answer, progress)
        worker.task = None
        progress(answer)
        return worker

    def _first_error(self, worker: Worker, error: Exception, progress: Callable[[int], None]) -> Exception:
        """Returns the error of the first failed block, so that it does not depend on the number of processes."""
        index = worker.task.block.index if worker.task else 0
        self._workers.remove(worker)
        _stop(worker)
        while any(other.task and other.task.block.index < index for other in self._workers):
            try:
                self._receive(progress)
            except Exception as earlier:  # of any block; the first one counts
                return earlier
        return error

    def _finish(self, progress: Callable[[int], None]) -> None:
        while any(worker.task for worker in self._workers):
            self._receive(progress)

    def _start(self) -> Worker:
        ours, theirs = Pipe()
        environment = os.environ | ONE_THREAD | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        process = start_bound(
            [sys.executable, "-c", PROGRAM, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        theirs.close()
        worker = Worker(process, ours)
        self._workers.append(worker)
        self._send(worker, (self.pipeline, self.forms))
        return worker

    def _send(self, worker: Worker, what: object) -> None:
        try:
            worker.connection.send(what)
        except ConnectionError:
            raise self._death(worker) from None

    def _death(self, worker: Worker) -> Exception:
        code = worker.process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        memory = ", often for lack of memory" if code == -9 else ""
        return Interrupted(
            f"data.num_proc={self.num_proc}: a process of the data stage {how}{memory}. "
            "Try: the same command, which continues after the finished part, with a smaller data.num_proc"
        )

    def close(self) -> None:
        for worker in self._workers:
            _stop(worker)


def make_chunk(pipeline: RowPipeline, forms: Mapping[str, list[Format]], task: Task) -> int:
    """Makes the chunk of a task and returns how many rows it read."""
    with _no_collector():
        chunk = write_chunk(pipeline, forms[task.stream], task.stream, task.block, task.path)
    return chunk.counts["stream"]["read"]


@contextmanager
def _no_collector() -> Iterator[None]:
    """Turns the collector of reference cycles off: rows have none, and looking at all of a block's takes a seventh."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def open_workers(pipeline: RowPipeline, opened: list[OpenSource], num_proc: int | None) -> Iterator[Workers]:
    """Yields the workers of a pipeline and ends them; tokenizers uses one thread per process meanwhile."""
    workers = Workers(pipeline, {each.key: each.forms for each in opened}, num_proc)
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield workers
    finally:
        workers.close()
        os.environ.pop("TOKENIZERS_PARALLELISM")
        if before is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def serve(descriptor: int) -> None:
    """Makes chunks of the blocks that arrive on a connection until it is closed."""
    connection = Connection(descriptor)
    with suppress(EOFError, ConnectionError, KeyboardInterrupt):
        pipeline, forms = connection.recv()
        while True:
            task: Task = connection.recv()
            try:
                connection.send(make_chunk(pipeline, forms, task))
            except (ConnectionError, KeyboardInterrupt):
                raise
            except Exception as error:  # the parent raises it
                connection.send(_portable(error))


def _portable(error: Exception) -> Exception:
    """Returns the error in a class that every process can unpickle."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, error.filename) if error.errno else OSError(str(error))
    if isinstance(error, ValueError):
        return ValueError(str(error))
    return RuntimeError(str(error) or type(error).__name__)


def _stop(worker: Worker) -> None:
    worker.connection.close()
    worker.process.kill()
    worker.process.wait()
