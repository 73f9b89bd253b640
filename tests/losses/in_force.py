"""Reports whether a worker's loss has its chunks compiled: `python -m tests.losses.in_force OUT ROWS`."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from distft.config import compose
from distft.losses.cross_entropy import of_chunk
from distft.runtime.process_group import process_group
from distft.worker import make_engine


def main() -> None:
    out, rows = sys.argv[1:]
    plan: Any = SimpleNamespace(model_dir=None, labels=None)  # all that is asked of a plan here
    with process_group() as world:
        found = {}
        for word in ("true", "false"):
            own = ["model=llama3_8b", "model.tiny=true", f"data.train={rows}", f"train.compile={word}"]
            engine: Any = make_engine(compose(own), plan, world)
            found[word] = engine.objective.loss.of_chunk is not of_chunk
        Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
