"""`python -m benchmarks.tasks.baselines [OVERRIDES]`: MiniLM against the majority class and the mean, over 3 seeds.

The held-out rows are the same for every seed; a seed changes the order of the rows, dropout and the new head. The
baselines know the training rows alone. Intervals are Student's t over the seeds, at 95%.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from benchmarks.tasks import HELD_OUT, fetch_model_and_rows
from distft.data.shards import Rows
from distft.run import RunFolder

SEEDS = (0, 1, 2)
T_95 = 4.303  # of two degrees of freedom
COMMON = (
    *("data.max_length=32", f"data.eval={HELD_OUT}", "train.micro_batch_tokens=256", "optimizer.lr=2e-4"),
    *("train.max_steps=40", "export=false", "checkpoint.save_best=false"),
)
METRIC = {"sequence_classification": "accuracy", "regression": "mse"}


@dataclass(frozen=True)
class Result:
    """A task's metric of each seed, and the baseline's."""

    task: str
    metric: str
    values: list[float]
    baseline: float

    @property
    def text(self) -> str:
        half = T_95 * stdev(self.values) / len(self.values) ** 0.5
        middle = mean(self.values)
        interval = f"{middle:.4f}, 95% interval {middle - half:.4f} to {middle + half:.4f}"
        return f"{self.task}: {self.metric} {interval} over seeds {SEEDS}; baseline {self.baseline:.4f}"


def run(task: str, assets: dict[str, Path], folder: Path, overrides: list[str]) -> Result:
    """Returns the metric after training with each seed, and of the baseline on the same held-out rows."""
    values = []
    for seed in SEEDS:
        words = [f"model.path={assets['model']}", f"model.task={task}", f"data.train={assets[task]}"]
        words += [f"name={task}-{seed}", f"runs_dir={folder}", f"seed={seed}", *COMMON, *overrides]
        subprocess.run([sys.executable, "-m", "distft.launch", *words], check=True)
        [*_, last] = RunFolder(folder / f"{task}-{seed}").read_metrics("eval")
        values.append(last[METRIC[task]])
    rows_dir = RunFolder(folder / f"{task}-0").read_plan().rows_dir
    train, held_out = (labels_of(Rows(rows_dir, part)) for part in ("train", "eval"))
    if task == "regression":
        return Result(task, METRIC[task], values, float(np.mean((held_out - train.mean()) ** 2)))
    majority = np.bincount(train.astype(int)).argmax()
    return Result(task, METRIC[task], values, float(np.mean(held_out == majority)))


def labels_of(rows: Rows) -> np.ndarray:
    return np.concatenate([row.labels for row in rows if row.labels is not None])


def main(overrides: list[str]) -> int:
    """Prints a line per task, then JSON; returns 1 where a baseline is not beaten in every seed."""
    assets = fetch_model_and_rows()
    with tempfile.TemporaryDirectory() as folder:
        results = [run(task, assets, Path(folder), overrides) for task in METRIC]
    for each in results:
        print(each.text)
    print(json.dumps([vars(each) for each in results]))
    beaten = [max(each.values) < each.baseline for each in results if each.metric == "mse"]
    beaten += [min(each.values) > each.baseline for each in results if each.metric == "accuracy"]
    return 0 if all(beaten) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
