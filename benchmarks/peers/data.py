"""The rows of a round, tokenized once by distft and given to every peer in distft's reading order."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.settings import MAX_LENGTH, ROWS_PER_STEP
from benchmarks.rows import BLOCK, Pair, unequal_rows, warm_up_rows, write_rows
from distft.config import compose
from distft.config.errors import Unavailable
from distft.data.key import prepared_dir
from distft.data.order import Order
from distft.data.shards import Rows

SEED = 0
IGNORED = -100  # the label of a token without a loss, in transformers and TRL


@dataclass(frozen=True)
class Data:
    """Rows in reading order; those of the first step are for warm-up."""

    overrides: list[str]  # of distft, for these rows and this model
    tokens: Path  # the same rows as ids and labels, for the peers
    sha256: str  # of the rows' text
    lengths: list[int]
    targets: list[int]

    @property
    def steps(self) -> int:
        return len(self.lengths) // ROWS_PER_STEP

    def about(self) -> dict[str, Any]:
        """Returns the description of the measured rows for the results."""
        lengths = np.array(self.lengths[ROWS_PER_STEP:])
        return {
            "rows": len(lengths),
            "sha256": self.sha256,
            "mean_tokens": round(float(lengths.mean()), 1),
            "median_tokens": float(np.median(lengths)),
            "longest_tokens": int(lengths.max()),
            "trained": round(sum(self.targets[ROWS_PER_STEP:]) / int(lengths.sum()), 4),
        }


def make_data(pairs: Sequence[Pair], blocks: Sequence[int], model: Path, folder: Path) -> Data:
    """Returns the rows of `blocks` behind a step of others; Unavailable when distft does not take them all."""
    rows = unequal_rows(pairs)
    wanted = warm_up_rows(pairs) + [row for block in blocks for row in rows[BLOCK * block : BLOCK * (block + 1)]]
    order = Order(len(wanted), SEED).rows(0, len(wanted))
    placed = [wanted[place] for place in np.argsort(order)]  # so that distft reads them in the intended order
    name = "-".join(map(str, blocks))
    file = folder / f"rows-{name}.jsonl"
    sha256 = write_rows(placed, file)
    overrides = [f"model.path={model}", f"data.train={file}", "data.format=prompt_completion", "data.eval=null"]
    overrides += [f"data.max_length={MAX_LENGTH}", "data.max_truncated_fraction=0", f"seed={SEED}"]
    prepared = Rows(prepare_rows(overrides), "train")
    if len(prepared) != len(wanted) or not prepared.num_targets.all():
        raise Unavailable(f"distft.prepare took {len(prepared)} of {len(wanted)} rows of {file}")
    tokens = folder / f"tokens-{name}.json"
    read = [prepared[int(index)] for index in order]
    ids = [row.input_ids.tolist() for row in read]
    labels = [np.where(row.trained, row.input_ids, IGNORED).tolist() for row in read]
    tokens.write_text(json.dumps({"input_ids": ids, "labels": labels}))
    return Data(overrides, tokens, sha256, prepared.lengths[order].tolist(), prepared.num_targets[order].tolist())


def prepare_rows(overrides: Sequence[str]) -> Path:
    config = compose(overrides)
    if prepared_dir(config) is None:
        subprocess.run([sys.executable, "-m", "distft.prepare", *overrides], check=False)  # prints its own errors
    folder = prepared_dir(config)
    if folder is None:
        raise Unavailable("distft.prepare did not take the rows, see above")
    return folder
