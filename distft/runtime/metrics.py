"""metrics.jsonl: the source of truth of a run's numbers, one object a line, each step once."""

import os
import time
from pathlib import Path
from typing import Any

from distft.run import read_row, row_text


class MetricsLog:
    """Appends rows to metrics.jsonl; only rank 0 has one."""

    def __init__(self, path: Path, start_step: int) -> None:
        """Drops rows after `start_step`, which this attempt will make again, all of them where it begins, with an
        evaluation before the first step, and a line cut off by a crash."""
        self.path = path
        self.dropped: list[dict[str, Any]] = []
        if path.is_file():
            lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            rows = list(map(read_row, lines))
            last = start_step or -1
            kept = "".join(line for line, row in zip(lines, rows, strict=True) if row["step"] <= last)
            self.dropped = [row for row in rows if row["step"] > last]
            beside = path.with_name(f".{path.name}.kept")
            beside.write_text(kept)
            os.replace(beside, path)
        self.file = path.open("a", buffering=1)

    def write(self, row: dict[str, Any]) -> None:
        """Appends one line, with the time; it is with the operating system when this returns."""
        self.file.write(row_text(row | {"time": time.time()}) + "\n")
