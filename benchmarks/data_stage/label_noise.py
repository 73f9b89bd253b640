"""Planted label noise: precision and recall of `clean.label_noise` on rows with real labels.

`python -m benchmarks.data_stage.label_noise [rows=FILE.jsonl] [share=0.1] [seeds=3] [out=FILE.json]`. A share of the
labels is replaced by another one, seeded; rows hold text and label. The default rows are the signs of the terms of the
VADER lexicon, single words, whose sign a linear model misses in one of ten cases: its errors bound the precision.
"""

import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tasks import fetch_model_and_rows
from distft.data.cleaning.contract import Columns
from distft.data.cleaning.rules.label_noise import Rule
from distft.data.cleaning.view import Text, View

THRESHOLDS = (0.5, 0.7, 0.8, 0.9)
Row = dict[str, Any]  # text and label


@dataclass(frozen=True)
class Result:
    """What the rule found of the wrong labels at one threshold. seconds: of the processor, for all rows."""

    seed: int
    threshold: float
    rows: int
    planted: int
    found: int
    precision: float
    recall: float
    seconds: float
    remark: str


def with_noise(rows: list[Row], share: float, seed: int) -> tuple[list[Row], set[int]]:
    """Returns the rows with a share of wrong labels, and the numbers of those rows."""
    choose, labels = random.Random(seed), sorted({row["label"] for row in rows})
    wrong = set(choose.sample(range(len(rows)), round(share * len(rows))))
    others = {name: [other for other in labels if other != name] for name in labels}
    return [
        row | {"label": choose.choice(others[row["label"]])} if i in wrong else row for i, row in enumerate(rows)
    ], (wrong)


def measure(rows: list[Row], share: float, seed: int) -> Iterator[Result]:
    """Yields a result per threshold."""
    noisy, wrong = with_noise(rows, share, seed)
    views = [View("rows", i, (Text("text", row["text"], False),), label=row["label"]) for i, row in enumerate(noisy)]
    started = time.process_time()
    signatures: Columns = Rule().sign(views)
    signed = time.process_time() - started
    for threshold in THRESHOLDS:
        started = time.process_time()
        remark, *found = Rule(threshold=threshold).compare(signatures, np.ones(len(views), dtype=bool))
        seconds = signed + time.process_time() - started
        numbers = {each[0] for each in found if not isinstance(each, str)}
        hits = len(numbers & wrong)
        shares = (hits / max(1, len(numbers)), hits / max(1, len(wrong)))
        yield Result(seed, threshold, len(rows), len(wrong), len(numbers), *shares, round(seconds, 2), str(remark))


def main(arguments: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments)
    file = Path(given["rows"]) if "rows" in given else fetch_model_and_rows()["sequence_classification"]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    found = []
    for seed in range(int(given.get("seeds", 3))):
        for each in measure(rows, float(given.get("share", 0.1)), seed):
            found.append(asdict(each))
            print(
                f"seed {seed}, threshold {each.threshold}: {each.found} found of {each.planted} planted in {each.rows} "
                f"rows, precision {each.precision:.2f}, recall {each.recall:.2f}, {each.seconds} s"
            )
    if out := given.get("out"):
        Path(out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
