"""What a watched run leaves beside its own files: where it was to be killed, where it was, and what it was fed."""

import json
from collections import defaultdict
from pathlib import Path

from distft.run import RunFolder

Fed = dict[tuple[int, int, int], tuple[str, ...]]  # (step, rank, micro-batch) -> digests of its rows


def kills_of(run: RunFolder) -> Path:
    return run.path / "kills.json"


def death_of(run: RunFolder, attempt: int) -> Path:
    return run.rank_log(attempt, 0).with_name("killed.json")


def fed_file(run: RunFolder, attempt: int, rank: int) -> Path:
    return run.rank_log(attempt, rank).with_name(f"rank-{rank}.fed.jsonl")


def read_fed(run: RunFolder) -> dict[int, Fed]:
    """Returns what each attempt was fed; a last line cut off by the kill is left out."""
    found: dict[int, Fed] = defaultdict(dict)
    for file in sorted(run.logs.glob("attempt-*/rank-*.fed.jsonl")):
        attempt = int(file.parent.name.removeprefix("attempt-"))
        rank = int(file.name.removeprefix("rank-").removesuffix(".fed.jsonl"))
        for line in file.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                row = json.loads(line)
                found[attempt][row["step"], rank, row["micro"]] = tuple(row["rows"])
    return dict(found)


def first_step(run: RunFolder, attempt: int) -> int | None:
    """Returns the first step that an attempt did or began, None when it got to none."""
    return min((step for step, _, _ in read_fed(run).get(attempt, {})), default=None)
