"""python examples/own_schedule.py ROWS.jsonl [KEY=VALUE ...]: a learning-rate schedule of one's own, by its name.

Losses, optimizers, launchers and trackers work the same way: `_target_` names the code, `trust` allows it, and its
keywords are keys.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import distft


def inverse_sqrt(total_steps: int, warmup_steps: int = 10) -> Callable[[int], float]:
    """Rises on a line over `warmup_steps`, then falls as 1 / sqrt(step); a factor of optimizer.lr."""
    return lambda step: min(step / warmup_steps, (warmup_steps / step) ** 0.5)


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # where the processes of the run find it
    sys.path.insert(0, os.environ["PYTHONPATH"])
    rows, *overrides = sys.argv[1:]
    config = distft.compose(
        "trust=[own_schedule.]",
        "schedule._target_=own_schedule.inverse_sqrt",
        "schedule.warmup_steps=3",
        *overrides,
        model="smollm2_135m",
        data={"train": rows, "eval": 0.2},
    )
    run = distft.fine_tune(config)
    print([f"{row['learning_rate']:.2e}" for row in run.metrics("train")])
