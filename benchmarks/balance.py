"""Balance of the work in a step: `python -m benchmarks.balance` prints a Markdown table. Nothing is trained.

Rows are the demo's dialogues, and the benchmarks' unequal rows made from them (benchmarks/rows.py), tokenised by the
demo's model, which also determines the cost of a row. In each micro-batch all processes wait for the slowest one. The
excess is the time this takes relative to a perfectly even distribution. A process computes whole rows, so a step
takes at least as long as its most expensive row; no assignment has less excess than that.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.measurement import spread, table
from benchmarks.rows import demo_folder, read_pairs, unequal_rows, write_rows
from distft.config import ConfigError, command, compose
from distft.data.order import Order
from distft.data.shards import Rows
from distft.data.stage import ensure_prepared
from distft.models.build import architecture, skeleton
from distft.models.flops import Flops
from distft.train.feed import make_cut

STEPS = 10
WORLDS = (2, 4, 8)
ROWS_A_PROCESS = (4, 8, 16, 32)
TOKENS = (1024, 2048)  # of a micro-batch


def excess(costs: np.ndarray, step: list[list[np.ndarray]]) -> float:
    """Returns the excess time of a step relative to a perfectly even distribution; 0 is even."""
    of = np.asarray([[costs[rows].sum() for rows in ranks] for ranks in step])  # [micro-batches, processes]
    return float(of.max(1).sum() / of.sum(0).mean() - 1)


def measured(rows: Rows, flops: Flops) -> Iterator[list[str]]:
    order = Order(len(rows), 0)
    for world in WORLDS:
        for each in ROWS_A_PROCESS:
            size = world * each
            steps = [order.rows(i * size, (i + 1) * size) for i in range(STEPS)]
            for tokens in TOKENS:
                cut = make_cut(rows, None, tokens, flops)
                found = [excess(cut.costs, cut.micro_batches(step, world)) for step in steps]
                of = [cut.costs[step] for step in steps]
                least = [max(0.0, costs.max() * world / costs.sum() - 1) for costs in of]
                whole = [costs.sum() for costs in of]
                together = [f"{np.average(shares, weights=whole):.1%}" for shares in (found, least)]
                yield [str(world), str(each), f"{tokens:,}", spread(found, "{:.1%}"), *together]


def main(arguments: list[str]) -> int:
    if arguments:
        raise ConfigError([f"{arguments[0]}: this benchmark has no keys. Try: python -m benchmarks.balance"])
    folder = demo_folder()
    model_dir, pairs = folder / "smollm2-135m-instruct", read_pairs(folder / "chatterbot.jsonl")
    flops = Flops.of(skeleton(architecture(model_dir, {}), "sdpa"))
    with tempfile.TemporaryDirectory() as scratch:
        for name, made in (("dialogues", pairs), ("unequal rows", unequal_rows(pairs, blocks=16))):
            file = Path(scratch) / f"{name}.jsonl"
            write_rows(made, file)
            asked = [f"data.train={file}", f"model.path={model_dir}", "data.eval=null", f"cache_dir={scratch}"]
            rows = Rows(
                ensure_prepared(compose(["model=smollm2_135m", "data.packing=true", *asked]).values).folder, "train"
            )
            lengths = rows.lengths
            print(f"\n{name}: {len(rows)} rows, median {np.median(lengths):.0f} tokens, longest {lengths.max()}\n")
            head = ["processes", "rows of each", "tokens a micro-batch", "excess of a step", "of all", "at least"]
            print(table(head, list(measured(rows, flops))), end="")
    return 0


if __name__ == "__main__":
    command(main, help=__doc__)
