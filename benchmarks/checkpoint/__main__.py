"""Seconds, bytes per second and memory of saving a model with AdamW's state.

    python -m benchmarks.checkpoint [model=smollm2_135m] [rounds=7] [folder=runs/benchmarks] [out=benchmarks/results]

On 1 process (ddp) and 2 (fsdp): plain writing, a save, torch's DCP, a save in the background, and hashing of the same
bytes, in turn in every round. Prints medians and ratios of rounds; writes checkpoint.json and checkpoint.md into `out`.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from distft.run import write_json
from distft.runtime.environment import describe

GROUPS = {1: "ddp", 2: "fsdp"}
DEFAULTS = {"model": "smollm2_135m", "rounds": "7", "folder": "runs/benchmarks", "out": "benchmarks/results"}


def run(processes: int, given: dict[str, str]) -> dict[str, Any]:
    """Returns the results of a group of `processes`."""
    with tempfile.TemporaryDirectory(dir=given["folder"]) as folder:
        found = Path(folder) / "found.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command += ["-m", "benchmarks.checkpoint.measure", str(found), given["model"], GROUPS[processes]]
        threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // processes))}
        subprocess.run([*command, given["rounds"], f"{folder}/files"], check=True, env=os.environ | threads)
        return json.loads(found.read_text())


def table(results: dict[int, dict[str, Any]]) -> str:
    """Returns the results as Markdown: medians over the rounds, ratios round by round."""
    lines = ["| | " + " | ".join(f"{GROUPS[n]}, {n} process{'es' * (n > 1)}" for n in results) + " |"]
    lines.append("|---" * (len(results) + 1) + "|")
    for name, value in ROWS.items():
        lines.append(f"| {name} | " + " | ".join(value(found) for found in results.values()) + " |")
    return "\n".join(lines) + "\n"


def _seconds(name: str) -> Any:
    return lambda found: _median([each[name] for each in found["rounds"]], "{:.2f} s")


def _ratio(one: str, other: str) -> Any:
    return lambda found: _median([each[one] / each[other] for each in found["rounds"]], "{:.3f}")


def _median(values: list[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return f"{form.format(median(values))} ({low.removesuffix(' s')} to {high})"


def _rate(name: str) -> Any:
    return lambda found: f"{found['bytes'] / median(each[name] for each in found['rounds']) / 1e6:,.0f} MB/s"


ROWS = {
    "checkpoint": lambda found: f"{found['bytes'] / 1e9:.2f} GB",
    "plain writing with fsync": _seconds("plain"),
    "a save, until it counts": _seconds("save"),
    "torch.distributed.checkpoint.save": _seconds("dcp"),
    "plain writing, a second": _rate("plain"),
    "a save, a second": _rate("save"),
    "**plain writing / save** (bar: 0.7 or more)": _ratio("plain", "save"),
    "torch.distributed.checkpoint.save / save": _ratio("dcp", "save"),
    "background: training waits": _seconds("stall"),
    "background: until it counts": _seconds("until it counts"),
    "**wait in background / save** (bar: 0.08 or less)": _ratio("stall", "save"),
    "forward and backward during it / alone": _ratio("during", "alone"),
    "hashing all with xxh3_128 (done)": _seconds("xxh3_128"),
    "hashing all with sha256 (not done)": _seconds("sha256"),
    "xxh3_128 / save": _ratio("xxh3_128", "save"),
    "sha256 / save": _ratio("sha256", "save"),
    "a process's share of the state": lambda found: f"{found['share'] / 2**20:.0f} MiB",
    "a process grows by, in a save": lambda found: f"{found['memory']['save'] / 2**20:.1f} MiB",
    "its buffer for saves in the background": lambda found: f"{found['memory']['buffer'] / 2**20:.0f} MiB",
    "and it grows by, in one": lambda found: f"{found['memory']['background'] / 2**20:.1f} MiB",
}


def main(arguments: list[str]) -> int:
    given = DEFAULTS | dict(argument.split("=", 1) for argument in arguments)
    Path(given["folder"]).mkdir(parents=True, exist_ok=True)
    results = {processes: run(processes, given) for processes in GROUPS}
    command = " ".join(["python -m benchmarks.checkpoint", *arguments])
    write_json(Path(given["out"]) / "checkpoint.json", {"command": command, "on": describe(), "results": results})
    text = f"`{command}`, medians (least to most) of {given['rounds']} rounds\n\n{table(results)}"
    (Path(given["out"]) / "checkpoint.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
