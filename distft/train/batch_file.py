"""RUN/batches/step-N.json: what a step read, for whoever looks for the row that spoilt it."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distft.run import Plan, RunFolder, write_json
from distft.runtime.seeds import seed_for
from distft.train.feed import Feed


def batch_file(run: RunFolder, step: int) -> Path:
    return run.path / "batches" / f"step-{step:08d}.json"


def write_batch(run: RunFolder, plan: Plan, feed: Feed, seed: int, row: dict[str, Any], why: Sequence[str]) -> None:
    """Writes rows by index and content id, micro-batches and seeds of a step, and the command that makes it again.

    seed: of the run. row: the step's of metrics.jsonl. The plan is kept too: a later one may read other rows.
    """
    step = row["step"]
    dealt = feed.cut.micro_batches(feed.rows_of(step), feed.world.size)
    own_seed = seed_for(seed, "step", step)
    micro_batches = [
        {
            "micro_batch": i,
            "rank": rank,
            "seed": seed_for(own_seed, i, rank),
            "rows": indices.tolist(),
            "ids": [feed.rows.ids[index] for index in indices.tolist()],
        }
        for i, ranks in enumerate(dealt)
        for rank, indices in enumerate(ranks)
    ]
    content = {
        "step": step,
        "why": list(why),
        "time": time.time(),
        "seed": own_seed,
        "metrics": {key: repr(row[key]) for key in ("loss", "grad_norm", "learning_rate")},
        "replay": shlex.join(["python", "-m", "distft.replay", f"run={run.path}", f"step={step}"]),
        "data": plan.data_dir,
        "micro_batches": micro_batches,
        "plan": asdict(plan),
    }
    write_json(batch_file(run, step), content)
