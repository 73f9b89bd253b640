"""Processes of the data stage: each makes chunks of blocks; the workers import no torch.

This process reads the sources and makes chunks itself, and a thread per worker hands it the next block when it is done
with one. So a slow block delays no other, and nobody waits while a worker imports its libraries. Unless a number of
processes is requested, workers are started when there is enough work: a small data set is finished before.
Trap: tokenizers starts a thread per core in each process unless TOKENIZERS_PARALLELISM is false.
Trap: the kernel ends a worker with the thread that started it, so all are started from the main thread.
"""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from threading import Condition, Thread

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
READY = "ready"  # the first message of a worker
FIRST = -1  # the place of an error that no block has

Forms = Mapping[str, list[Format]]  # of each stream


@dataclass(frozen=True)
class Task:
    """A block to make into a chunk. place: its number among the blocks of all streams."""

    stream: str
    block: Block
    path: Path
    place: int


class Tasks:
    """The blocks of all streams in order, without those that have a chunk already; for several threads."""

    def __init__(self, opened: Sequence[OpenSource], folder: Path, progress: Callable[[int], None]) -> None:
        """progress: called with the number of rows of each block."""
        self.paths: dict[str, list[Path]] = {each.key: [] for each in opened}
        self._tasks, self._progress = self._all(opened, folder), progress
        self._changed = Condition()
        self._in_work, self._place = 0, 0
        self._errors: dict[int, Exception] = {}

    def next(self) -> Task | None:
        """Returns the next block to make; None where none is left, or one has failed."""
        with self._changed:
            if self._errors:
                return None
            try:
                task = next(self._tasks, None)
            except Exception as error:  # of a source
                self._errors[self._place] = error
                return None
            self._in_work += task is not None
            return task

    def _all(self, opened: Sequence[OpenSource], folder: Path) -> Iterator[Task]:
        for each in opened:
            for block in each.blocks:
                path = chunk_path(folder, each.key, block.index)
                self.paths[each.key].append(path)
                if path.is_file():
                    self._progress(Chunk(path).counts["stream"]["read"])
                else:
                    self._place += 1
                    yield Task(each.key, block, path, self._place)

    def done(self, rows: int) -> None:
        """Counts a task that is done."""
        with self._changed:
            self._progress(rows)
            self._in_work -= 1
            self._changed.notify_all()

    def failed(self, task: Task | None, error: Exception) -> None:
        """Notes the error of a task; Interrupted, and the error of a worker without a task, come first."""
        with self._changed:
            self._errors[FIRST if task is None or isinstance(error, Interrupted) else task.place] = error
            self._in_work -= task is not None
            self._changed.notify_all()

    def finish(self) -> None:
        """Waits for the tasks in work; raises the error of the first block that failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_work == 0)
            if self._errors:
                raise self._errors[min(self._errors)]


@dataclass(frozen=True)
class Worker:
    """A worker process, and this process's end of its connection."""

    process: subprocess.Popen[str]
    connection: Connection


@dataclass
class Workers:
    """Makes the chunks of the streams of a pipeline, with up to `num_proc` processes, this one among them."""

    num_proc: int | None  # None: as many as there are cores, once the work takes longer than ALONE_SECONDS
    started: float = field(default_factory=time.monotonic)
    _workers: list[Worker] = field(default_factory=list)
    _threads: list[Thread] = field(default_factory=list)
    _is_closed: bool = False

    def chunks(
        self, pipeline: RowPipeline, opened: Sequence[OpenSource], folder: Path, progress: Callable[[int], None]
    ) -> dict[str, list[Chunk]]:
        """Returns the chunks of each stream in order; those that `folder` has already are not made again.

        Raises the error of the first block that fails; Interrupted where a worker was killed.
        """
        forms, tasks = {each.key: each.forms for each in opened}, Tasks(opened, folder, progress)
        while (task := tasks.next()) is not None:
            self._share(tasks, pipeline, forms)
            try:
                rows = make_chunk(pipeline, forms, task)
            except Exception as error:  # `finish` raises the first of them
                tasks.failed(task, error)
            else:
                tasks.done(rows)
        tasks.finish()
        return {key: [Chunk(path) for path in paths] for key, paths in tasks.paths.items()}

    def start(self) -> None:
        """Starts the workers, which import their libraries meanwhile."""
        limit = self.num_proc or min(usable_cores(), MAX_PROCESSES)
        self._workers += [self._start() for _ in range(limit - 1)]

    def _share(self, tasks: Tasks, pipeline: RowPipeline, forms: Forms) -> None:
        """Lets the workers take part, once it is worth it."""
        if self._threads:
            return
        if self.num_proc is None and not self._workers and time.monotonic() - self.started >= ALONE_SECONDS:
            self.start()
        if not self._workers:
            return
        shared = bytes(ForkingPickler.dumps((pipeline, forms)))  # here, since this thread changes the pipeline
        self._threads += [
            Thread(target=self._feed, args=(worker, tasks, shared), daemon=True) for worker in self._workers
        ]
        for thread in self._threads:
            thread.start()

    def _feed(self, worker: Worker, tasks: Tasks, shared: bytes) -> None:
        """Hands tasks to a worker until none is left."""
        task = None
        try:
            worker.connection.send_bytes(shared)
            worker.connection.recv()  # READY
            while (task := tasks.next()) is not None:
                worker.connection.send(task)
                answer = worker.connection.recv()
                if isinstance(answer, Exception):
                    tasks.failed(task, answer)
                    return
                tasks.done(answer)
        except (EOFError, OSError):
            if not self._is_closed:
                tasks.failed(task, self._death(worker))
        except Exception as error:  # of `progress`
            tasks.failed(task, error)

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
        return Worker(process, ours)

    def _death(self, worker: Worker) -> Exception:
        code = worker.process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        memory = ", often for lack of memory" if code == -9 else ""
        return Interrupted(
            f"data.num_proc={self.num_proc}: a process of the data stage {how}{memory}. "
            "Try: the same command, which continues after the finished part, with a smaller data.num_proc"
        )

    def close(self) -> None:
        """Ends the workers, and the threads that wait for them."""
        self._is_closed = True
        for worker in self._workers:
            worker.process.kill()
            worker.process.wait()
        for thread in self._threads:
            thread.join()
        for worker in self._workers:
            worker.connection.close()


def make_chunk(pipeline: RowPipeline, forms: Forms, task: Task) -> int:
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
def open_workers(num_proc: int | None) -> Iterator[Workers]:
    """Yields the workers, started where their number is requested, and ends them.

    tokenizers uses one thread per process meanwhile.
    """
    workers = Workers(num_proc)
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        if num_proc is not None:
            workers.start()
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
        from transformers import PreTrainedTokenizerFast  # noqa: F401  # while the pipeline is made

        pipeline, forms = connection.recv()
        connection.send(READY)
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
