"""The runs of a proof: composed, planned and frozen like any run, with rows of random tokens.

The key `work` of their config names the function of this package that their ranks call.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distft.config import Config, compose
from distft.config.freeze import frozen_text
from distft.data.counts import Report, Split, Stream
from distft.data.key import data_dir, data_key
from distft.data.publish import build_once
from distft.data.shards import MANIFEST, Row, ShardWriter
from distft.plan import make_plan
from distft.plan.memory import Architecture
from distft.prove.place import Child, Place
from distft.run import RunFolder, json_text, read_json, write_json

CASES = "cases.json"  # of a series: [{"name", "kind", "run"}]
RESULTS = "results.jsonl"  # of a series, a JSON object a line
MEASURED = "measured.json"  # of a measured run
WARM, TRACED = 3, 2  # steps before and after the timed ones
ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}  # hides all accelerators


Result = Mapping[str, Any]  # of a case: name, state, seconds, error, run, and what a case of its kind measures
Measured = Mapping[str, Any]  # measured.json of a measured run, as distft.prove.measured writes it


@dataclass(frozen=True)
class RandomRows:
    """Rows of uniformly random tokens, all of which are trained on."""

    lengths: tuple[int, ...]  # of the rows, cyclically
    rows: int
    vocabulary: int
    held_out: int = 0

    def write(self, folder: Path, config: Config) -> Config:
        """Writes both splits as the data stage does; returns the config that reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        about = json.dumps({"text": f"{self.rows} + {self.held_out} rows of {len(self.lengths)} lengths, sum "
                                    f"{sum(self.lengths)}, of {self.vocabulary} tokens"})  # fmt: skip
        file = folder / f"random-{self.vocabulary}-{max(self.lengths)}-{self.rows}.jsonl"
        file.write_text(f"{about}\n")  # the content key of the rows is its hash
        config = config.changed({"data.train": str(file), "data.eval": 0.1 if self.held_out else None})
        key = data_key(config)
        with build_once(data_dir(config.cache_dir, key), MANIFEST) as partial:
            if partial is not None:
                self._fill(partial, key)
        return config

    def _fill(self, folder: Path, key: str) -> None:
        random = np.random.default_rng(0)
        counts = {"train": self.rows, "eval": self.held_out}
        files, report = {}, Report(streams={"train": Stream(read=self.rows + self.held_out)})
        for split, count in counts.items():
            writer, report.splits[split] = ShardWriter(folder, split), Split()
            for i in range(count):
                length = self.lengths[i % len(self.lengths)]
                row = Row(random.integers(0, self.vocabulary, length).astype(np.int32), np.ones(length, bool))
                writer.add(row, f"{split}-{i}")
                report.splits[split].add(row)
            writer.close()
            files[split] = writer.files
        if not self.held_out:
            del report.splits["eval"]
        write_json(folder / "report.json", report.as_dict())
        manifest = {"key": key, "vocab_size": self.vocabulary, "files": files}
        write_json(folder / MANIFEST, manifest | {"splits": report.as_dict()["splits"]})


def freeze(
    place: Place,
    name: str,
    work: str,
    overrides: Sequence[str],
    rows: RandomRows,
    architecture: Architecture,
    world: int | None = None,
) -> RunFolder:
    """Returns the folder of a run of a random model, frozen and not started.

    architecture: entries of config.json that replace those of the chosen model. world: processes; None: as many as
    the machine runs by default.
    """
    here = [f"name={name}", f"runs_dir={place.work / 'runs'}", f"cache_dir={place.work / 'cache'}", "model.tiny=true"]
    processes = f"launcher.processes_per_node={world or place.machine.world}"
    config = compose([*here, "data.train=not/read", processes, *overrides])
    own = {"model.tiny_architecture": dict(architecture), "work": work, "export.enabled": False}
    config = rows.write(place.work / "rows", config.changed(own))
    run = RunFolder(place.work / "runs" / name)
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_plan(make_plan(config))
    run.config.write_text(frozen_text(config))
    run.write_status(state="pending", attempt=1, exit_code=None, error=None)
    return run


def start(place: Place, run: RunFolder, attempt: int = 1, variables: Mapping[str, str] | None = None) -> Child:
    """Starts the ranks of a frozen run like a launch."""
    run.write_status(state="pending", attempt=attempt, exit_code=None, error=None)
    run.rank_log(attempt, 0).parent.mkdir(parents=True, exist_ok=True)
    name = f"{run.path.name}-{attempt}"
    arguments = (str(run.path), "--attempt", str(attempt))
    return place.start(name, "distft.launchers.elastic", *arguments, variables=variables)


def add_result(run: RunFolder, result: Mapping[str, Any]) -> None:
    """Appends a result to results.jsonl, which the proof reads while the run continues."""
    with (run.path / RESULTS).open("a") as file:
        file.write(json_text(result) + "\n")


def results_of(run: RunFolder) -> Iterator[Result]:
    """Yields the results that are written, without one that is cut off."""
    file = run.path / RESULTS
    for line in file.read_text().splitlines(keepends=True) if file.is_file() else ():
        if line.endswith("\n"):
            yield json.loads(line)


def why(run: RunFolder, attempt: int, child: Child) -> str:
    """Returns the error of the first rank that failed, else the end of the log."""
    for rank in range(run.read_plan().world):
        file = run.rank_error(attempt, rank)
        if file.is_file():
            error = read_json(file)
            return f"{error['type']}: {error['message']}".strip()[:400]
    return child.last_words()[:400]
