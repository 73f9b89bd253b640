"""Rounds: all runs in turn; a complete round is on disk and is not repeated."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from benchmarks.peers.runs import Measured, as_json
from benchmarks.peers.watch import Ended
from distft.run import write_json

Run = Callable[[], Measured]


def measure_round(
    runs: Sequence[tuple[str, Run]], product: Callable[[], float]
) -> tuple[list[Measured], dict[str, str]]:
    """Returns the results of the runs, and the reasons of failures; measures the matrix product between runs."""
    found, failed = list[Measured](), dict[str, str]()
    before = product()
    for name, run in runs:
        print(f"  {name} ...", file=sys.stderr, flush=True)
        try:
            done = run()
        except Ended as error:
            failed[name] = str(error)
            print(f"  {name} failed: {error}", file=sys.stderr)
            continue
        after = product()
        found.append(replace(done, product_gflops=(before + after) / 2))
        last = found[-1]
        print(
            f"  {name}: {last.tokens_per_second:.0f} tokens/s, {last.peak_gib:.1f} GiB, product {before:.0f} and "
            f"{after:.0f} GFLOP/s",
            file=sys.stderr,
        )
        before = after
    return found, failed


def write_round(file: Path, found: Sequence[Measured], failed: dict[str, str]) -> None:
    write_json(file, {"runs": [as_json(run) for run in found], "failed": failed})


def read_round(file: Path) -> list[Measured] | None:
    """Returns the runs of a complete round; None for an incomplete one."""
    if not file.is_file():
        return None
    known: dict[str, Any] = json.loads(file.read_text())
    names = {each.name for each in fields(Measured)}
    if known["failed"]:
        return None
    return [Measured(**{key: value for key, value in run.items() if key in names}) for run in known["runs"]]
