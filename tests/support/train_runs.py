"""Trains frozen runs on one group of processes: `python -m tests.support.train_runs OUT RUN...`, on every rank."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from distft import worker
from distft.run import RunFolder, read_json
from distft.runtime.process_group import process_group


def main() -> None:
    out, *folders = sys.argv[1:]
    torch.set_num_threads(1)
    effective = {}
    with process_group() as world:
        for folder in folders:
            run = RunFolder(Path(folder))
            worker.train(run, run.read_status()["attempt"], world)
            dist.barrier()
            effective[run.path.name] = read_json(run.path / "effective.json")
        if world.is_first:
            Path(out).write_text(json.dumps(effective))


if __name__ == "__main__":
    main()
