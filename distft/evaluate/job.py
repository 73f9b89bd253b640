"""An evaluation job: the file with what its ranks measure, and the files that they write.

Nothing here imports torch. Rank N appends the sums of its rows to sums/rank-N.jsonl.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from distft.evaluate.unit_metrics import Units
from distft.run import RunFolder, read_json, write_json

OUTPUTS, LABELS = "outputs", "labels"  # of the units of a row, in its line
FILE, SUMS, BENCHMARKS, ABOUT = "evaluation.json", "sums", "benchmarks.json", "about.json"


@dataclass(frozen=True)
class Tasks:
    """Benchmark tasks of lm-eval. paths: folders with YAML tasks. with_defaults: also those that lm-eval ships.

    limit: questions of each task, from the first. chat: apply the chat template.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...] = ()
    with_defaults: bool = False
    num_fewshot: int | None = None
    limit: int | None = None
    chat: bool = False


@dataclass(frozen=True)
class Work:
    """What an evaluation job does. rows_dir: prepared rows whose eval split is measured; None: none.

    micro_rows, micro_tokens: limit of a forward, one of them set.
    """

    rows_dir: str | None
    micro_rows: int | None
    micro_tokens: int | None
    tasks: Tasks | None = None

    def write(self, job: RunFolder) -> None:
        write_json(job.path / FILE, asdict(self))

    @staticmethod
    def read(job: RunFolder) -> "Work":
        values = read_json(job.path / FILE)
        tasks = values.pop("tasks")
        lists = {"names": tuple(tasks["names"]), "paths": tuple(tasks["paths"])} if tasks else {}
        return Work(**values, tasks=Tasks(**tasks | lists) if tasks else None)


def sums_file(job: RunFolder, rank: int) -> Path:
    return job.path / SUMS / f"rank-{rank}.jsonl"


def count_sums(job: RunFolder) -> int:
    """Returns how many rows have been measured so far."""
    return sum(file.read_bytes().count(b"\n") for file in (job.path / SUMS).glob("rank-*.jsonl"))


def read_sums(job: RunFolder, num_rows: int) -> tuple[dict[str, np.ndarray], list[Units]]:
    """Returns the sums of all rows by name, each float64 [rows], and the units of each row where it has labels.

    RuntimeError unless each row is there once.
    """
    lines = [
        json.loads(line)
        for file in sorted((job.path / SUMS).glob("rank-*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    lines.sort(key=lambda line: line["row"])
    if [line["row"] for line in lines] != list(range(num_rows)):
        raise RuntimeError(f"{job.path} has sums of {len(lines)} rows instead of {num_rows}, each once")
    names = [name for name in lines[0] if name not in ("row", OUTPUTS, LABELS)]
    units = [Units(np.array(line[OUTPUTS]), np.array(line[LABELS])) for line in lines if LABELS in line]
    return {name: np.array([line[name] for line in lines], dtype=np.float64) for name in names}, units
