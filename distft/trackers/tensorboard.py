"""TensorBoard event files in RUN/tensorboard, written without torch or TensorFlow."""

import shutil
from typing import Any

from distft.run import RunFolder
from distft.trackers.contract import Row, numbers


class TensorBoard:
    """Rewrites the files on every attempt from metrics.jsonl, so each step is there once."""

    def __init__(self) -> None:
        self._writer: Any = None

    def start(self, run: RunFolder) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = run.path / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = EventFileWriter(str(folder))

    def log(self, row: Row) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]  # generated
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers(row).items()]
        self._writer.add_event(Event(step=row["step"], summary=Summary(value=values)))

    def finish(self, state: str) -> None:
        self._writer.close()
