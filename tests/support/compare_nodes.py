"""Compares the environments of ranks that run alone on their nodes.

`python -m tests.support.compare_nodes OUT [FOLDER]`. Rank 1 searches FOLDER first for packages.
"""

import json
import os
import sys
from pathlib import Path

from distft.runtime.process_group import compare, process_group


def main() -> None:
    out, *folders = sys.argv[1:]
    rank = os.environ["RANK"]
    os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"] = "0", "1"
    os.environ["NCCL_DEBUG"] = f"of rank {rank}"
    os.environ["HF_TOKEN"] = "a secret of eight letters or more"
    if rank == "1":
        sys.path[:0] = folders
    with process_group() as world:
        try:
            found = compare(world)
        except RuntimeError as error:
            found = str(error)
        answers = Path(out).with_name(f"answer-{rank}.json")
        answers.write_text(json.dumps(found))
        import torch.distributed as dist

        dist.barrier()
        if world.is_first:
            every = [json.loads(answers.with_name(f"answer-{each}.json").read_text()) for each in range(world.size)]
            Path(out).write_text(json.dumps(every))


if __name__ == "__main__":
    main()
