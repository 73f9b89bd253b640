"""TensorBoard event files in RUN/tensorboard, written without torch or TensorFlow."""

import shutil
from typing import Any

from distft.run import RunFolder
from distft.trackers.contract import Results, Row, markdown, numbers, tables


class TensorBoard:
    """Rewrites the files on every attempt from metrics.jsonl, so each step is there once."""

    def __init__(self) -> None:
        self._writer: Any = None
        self._step = 0  # the last one logged

    def start(self, run: RunFolder) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = run.path / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = EventFileWriter(str(folder))

    def log(self, row: Row) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]  # generated
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        self._step = row["step"]
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers(row).items()]
        self._writer.add_event(Event(step=row["step"], summary=Summary(value=values)))

    def results(self, results: Results) -> None:
        """Shows samples and evaluations as tables of the text dashboard; it has no pages and no files."""
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata  # pyright: ignore
        from tensorboard.compat.proto.tensor_pb2 import TensorProto  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.compat.proto.types_pb2 import DT_STRING  # pyright: ignore[reportAttributeAccessIssue]

        shown = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        for name, rows in tables(results).items():
            text = TensorProto(dtype=DT_STRING, string_val=[markdown(rows).encode()])
            value = Summary.Value(tag=f"{name}/text_summary", metadata=shown, tensor=text)
            self._writer.add_event(Event(step=self._step, summary=Summary(value=[value])))

    def finish(self, state: str) -> None:
        self._writer.close()
