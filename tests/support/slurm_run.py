"""Freezes a run for a cluster as launch does, with a tiny model and without prepared data."""

from pathlib import Path

from distft.config import compose, frozen_text
from distft.config.key import at
from distft.plan import make_plan
from distft.run import RunFolder
from tests.support.rows import write_sums


def freeze(folder: Path, name: str, *overrides: str, micro_batch_size: int | None = 4) -> RunFolder:
    """Returns the folder of a run that can be submitted: 32 rows per step.

    micro_batch_size: rows per forward; None: packed.
    """
    folder.mkdir(exist_ok=True)
    write_sums(folder)
    settings = ["model.tiny=true", f"data.train={folder / 'rows.jsonl'}", f"cache_dir={folder / 'cache'}"]
    settings += [f"runs_dir={folder / 'runs'}", "launcher=slurm", "train.max_steps=8", "train.epochs=null"]
    settings += [f"train.micro_batch_size={micro_batch_size}"] if micro_batch_size else []
    config = compose([*settings, f"name={name!r}", "export=false", *overrides])
    run = RunFolder(folder / "runs" / str(at(config.values, "name")))
    run.logs.mkdir(parents=True)
    run.config.write_text(frozen_text(config))
    run.write_plan(make_plan(config))
    run.write_status(state="pending", attempt=1, exit_code=None, error=None)
    return run
