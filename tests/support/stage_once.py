"""Four ranks on two nodes stage a model and rows: `python -m tests.support.stage_once OUT PLAN`.

The nodes differ by their TMPDIR. They stage twice, as for two runs; each rank writes its result to OUT/RANK.json.
"""

import os
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from distft.models.staging import stage
from distft.run import Plan, read_json, write_json
from distft.runtime.process_group import World
from tests.support.forked import fork_ranks

NODES, RANKS_OF_NODE = 2, 2


def stage_twice(out: Path, plan: Plan, world: World) -> None:
    os.environ["TMPDIR"] = str(out / f"node-{world.rank // RANKS_OF_NODE}")
    first, again = (stage(plan, "node_local", None, world) for _ in range(2))
    assert first == again
    write_json(out / f"{world.rank}.json", asdict(first))


if __name__ == "__main__":
    out, plan = map(Path, sys.argv[1:])
    fork_ranks(NODES * RANKS_OF_NODE, partial(stage_twice, out, Plan(**read_json(plan))))
