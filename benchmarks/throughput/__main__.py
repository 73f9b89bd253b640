"""Tokens per second, memory and MFU of real runs over numbers of processes, strategies and micro sizes.

    python -m benchmarks.throughput [KEY=VALUE ...] [OVERRIDES]

OVERRIDES are those of `python -m distft.launch`, so the same command measures two processes of a laptop, eight GPUs
(processes=1,2,4,8 model=llama3_8b data.train=FILE) or eight nodes (nodes=1,2,4,8 processes=8 launcher=slurm).
One with several values, train.compile=false,true, is compared: every combination, in turn.
The same command again measures what is missing: points of the same code and settings are kept.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.measurement import code
from benchmarks.rows import demo_folder, read_pairs, unequal_rows, uniform_texts, write_rows
from benchmarks.throughput.drawings import draw
from benchmarks.throughput.measure import Failed, Numbers, measured
from benchmarks.throughput.points import Point, Series, all_series, points_of
from benchmarks.throughput.results import Found, page, rows_of, write_csv
from benchmarks.throughput.settings import KEYS, Asked, read_arguments
from distft.config import command
from distft.machines import num_accelerators
from distft.run import write_json
from distft.runtime.environment import describe

HELP = f"{__doc__}\nown keys:\n" + "\n".join(f"  {key + '=':<18}{text}" for key, text in KEYS.items())
HELP += "\n\nkeys of a run: python -m distft.launch --help"
INTERRUPTED = 130


def of_all_runs(asked: Asked) -> list[str]:
    """Returns the overrides of every run: the user's, and the demo's model and rows by default."""
    found = ["train.epochs=null", f"train.max_steps={asked.warmup + asked.steps}", "export=false"]
    if not asked.has("eval"):
        found.append("eval=none")
    if not asked.has("data.eval"):
        found.append("data.eval=null")
    if not asked.has("model", "model.path", "model.tiny"):
        found.append(f"model.path={demo_folder() / 'smollm2-135m-instruct'}")
    if not asked.has("data.train"):
        found += own_rows(asked)
    return [*found, *asked.overrides]


def own_rows(asked: Asked) -> list[str]:
    """Writes the benchmark's rows into its folder; returns the overrides that name them."""
    pairs = read_pairs(demo_folder() / "chatterbot.jsonl")
    rows = unequal_rows(pairs) if asked.rows == "unequal" else uniform_texts(pairs, 128)
    file = asked.folder / f"{asked.rows}.jsonl"
    write_rows(rows, file)
    found = [f"data.train={file}"]
    if not asked.has("data.max_length"):
        found.append(f"data.max_length={1024 if asked.rows == 'unequal' else 512}")
    if not asked.has("data.max_truncated_fraction"):
        found.append("data.max_truncated_fraction=1")
    return found


def measure_all(points: Sequence[Point], repeats: int, run: Callable[[Point, int], Numbers], found: Found) -> None:
    """Measures all points in each repeat and adds the results to `found`; a failed point is not repeated."""
    for repeat in range(repeats):
        for number, point in enumerate(points, start=1):
            if point in found.failed:
                continue
            label = f"{repeat + 1} of {repeats}, {number} of {len(points)}: {point}"
            try:
                numbers = run(point, repeat)
            except Failed as reason:
                found.failed[point] = str(reason)
                print(f"{label}: failed: {reason}", file=sys.stderr, flush=True)
                continue
            found.runs.setdefault(point, {})[repeat] = numbers
            print(f"{label}: {numbers['tokens_per_second']:,.0f} tokens/s", file=sys.stderr, flush=True)


def write_results(asked: Asked, series: Sequence[Series], found: Found, about: dict[str, Any]) -> None:
    """Writes JSON, CSV, Markdown and the figure into `out`, and prints the Markdown."""
    asked.out.mkdir(parents=True, exist_ok=True)
    rows = rows_of(series, found)
    runs = [{"point": str(point), "repeats": list(each.values())} for point, each in found.runs.items()]
    write_json(asked.out / "throughput.json", {**about, "points": rows, "runs": runs})
    write_csv(rows, asked.out / "throughput.csv")
    text = page(series, found, about)
    (asked.out / "throughput.md").write_text(text)
    hardware = about["on"]["hardware"]
    device = (
        hardware["accelerators"][0] if hardware["accelerators"] else f"{hardware['cpu']}, {hardware['cores']} cores"
    )
    draw(series, found, f"{device}; commit {about['code'][:9]}", asked.out / "throughput")
    print(text)


def main(arguments: list[str]) -> int:
    """Returns 0 when every point was measured, 1 when one failed, 130 when Ctrl-C left some for the next start."""
    asked = read_arguments(arguments, 0 if num_accelerators() else len(os.sched_getaffinity(0)))
    series = all_series(asked)
    overrides, version = of_all_runs(asked), code()
    of_points = [version, overrides, asked.threads]

    def run(point: Point, repeat: int) -> Numbers:
        folder = asked.folder / f"{point.name(of_points)}-r{repeat}"
        return measured(folder, [*overrides, *point.overrides(asked)], asked.warmup, asked.threads)

    about = {"command": " ".join(["python -m benchmarks.throughput", *arguments]), "code": version, "on": describe()}
    about |= {"rows": "of data.train" if asked.has("data.train") else asked.rows, "threads": asked.threads}
    found, interrupted = Found(), False
    try:
        measure_all(points_of(series), asked.repeats, run, found)
    except KeyboardInterrupt:
        interrupted = True
        print("stopped; the same command measures the rest", file=sys.stderr)
    if found.runs or not interrupted:
        write_results(asked, series, found, about)
    return INTERRUPTED if interrupted else bool(found.failed)


if __name__ == "__main__":
    command(main, help=HELP)
