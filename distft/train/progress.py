"""The progress of an attempt in its run folder: the rows of metrics.jsonl, and the current step in status.json.

One process per run writes both.
"""

import os
import socket
import time
from pathlib import Path

from distft.run import MetricsRow, RunFolder, Status, read_row, row_text, write_json


class StepReport:
    """Writes the current step of a running attempt to status.json; one process per run has it.

    Trap: on a shared filesystem every create or rename is a request to one server. So the file is not read back,
    and is replaced at most once per SECONDS; metrics.jsonl has every step.
    """

    SECONDS = 1.0

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.others: Status = {**run.read_status(), "state": "running", "host": socket.gethostname()}
        self.due = 0.0

    def write(self, step: int) -> None:
        if time.monotonic() >= self.due:
            write_json(self.run.status, {**self.others, "step": step, "time": time.time()})
            self.due = time.monotonic() + self.SECONDS


class MetricsLog:
    """Appends rows to metrics.jsonl; only rank 0 has one."""

    def __init__(self, path: Path, start_step: int) -> None:
        """Drops rows after `start_step`, which this attempt writes again, and a line cut off by a crash; at step 0 it
        drops all rows, with those of an evaluation before the first step."""
        self.path = path
        self.dropped: list[MetricsRow] = []
        if path.is_file():
            lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            rows = list(map(read_row, lines))
            last = start_step or -1
            kept = "".join(line for line, row in zip(lines, rows, strict=True) if row["step"] <= last)
            self.dropped = [row for row in rows if row["step"] > last]
            temporary = path.with_name(f".{path.name}.kept")
            temporary.write_text(kept)
            os.replace(temporary, path)
        self.file = path.open("a", buffering=1)

    def write(self, row: MetricsRow) -> None:
        """Appends one line, with the time; it is flushed to the operating system on return."""
        self.file.write(row_text(row | {"time": time.time()}) + "\n")
