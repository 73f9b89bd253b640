"""DPO and classification on unequal rows, by distft, TRL and transformers' Trainer in turn.

    python -m benchmarks.peers.objectives [rounds=3] [tasks=[classification,preference]] [peers=[3]] [venv=] [out=]

MiniLM classifies texts of the demo's dialogues, 16 a step; SmolLM2 prefers true replies to others, 8 pairs a step, all
weights trained, reference log-probabilities stored before. Peers run with their defaults and with faster settings;
distft is compared with the fastest. Real tokens a second and the peak memory of the process, after one step that warms
up; ratios are of one round, medians over the rounds.
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.measurement import code, listed
from benchmarks.peers.data import prepare_rows
from benchmarks.peers.venv import python_of, versions
from benchmarks.peers.watch import run_watched
from benchmarks.rows import Pair, demo_folder, read_pairs, unequal_rows, write_rows
from benchmarks.tasks import fetch_model_and_rows
from distft.config import ConfigError, command
from distft.config.command import keywords, usage
from distft.data.order import Order
from distft.data.shards import Rows
from distft.paths import absolute
from distft.run import RunFolder, write_json
from distft.runtime.environment import describe

KEYS = {
    "rounds": "of all runs in turn (default 3)",
    "tasks": "classification, preference (default both)",
    "peers": "numbers of the other library's settings, e.g. [3]: for more rounds of the fastest (default all)",
    "venv": "the peers' environment (default ~/.cache/distft/peers/venv)",
    "out": "folder of objectives.json (default benchmarks/results)",
}
CLAIM = "Writes OUT/objectives.json: tokens per second and peak memory of each, and the ratios."
PROGRAM = Path(__file__).with_name("objectives_train.py")
CHECKOUT = Path(__file__).resolve().parents[2]
SEED, LR = 0, 2e-5


@dataclass(frozen=True)
class Peer:
    """One setting of the other library."""

    name: str
    rows_per_forward: int
    by_length: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What is trained: rows, model, and the settings of both sides."""

    name: str
    rows_per_step: int
    steps: int  # the first warms up
    max_length: int
    overrides: tuple[str, ...]
    peers: tuple[Peer, ...]


STORED: dict[str, Any] = {"gradient_checkpointing": False, "precompute_ref_log_probs": True}
TASKS = {
    "classification": Task(
        "classification",
        16,
        9,
        512,
        ("model.task=sequence_classification", "train.micro_batch_tokens=4096"),
        (
            Peer("trainer, 16 rows a forward", 16),
            Peer("trainer, 16 rows a forward, grouped by length", 16, by_length=True),
            Peer("trainer, 4 rows a forward", 4),
        ),
    ),
    "preference": Task(
        "preference",
        8,
        4,
        512,
        (
            *("model.task=preference", "loss=dpo", "loss.reference=stored"),
            *("train.micro_batch_tokens=1024", "train.activation_checkpointing=selective"),
        ),
        (
            Peer("trl, defaults, 8 pairs a forward", 8),
            Peer("trl, stored reference, 8 pairs a forward", 8, arguments=STORED),
            Peer("trl, stored reference, 8 pairs a forward, grouped by length", 8, True, STORED),
            Peer("trl, stored reference, 1 pair a forward", 1, arguments=STORED),
        ),
    ),
}


@dataclass(frozen=True)
class Measured:
    """One run, without its first step."""

    name: str
    tokens: int  # without padding
    seconds: float
    padding: float
    peak_gib: float
    losses: list[float]

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds


def rows_of(task: Task, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    count = task.rows_per_step * task.steps
    rows = [*unequal_rows(pairs), *unequal_rows(pairs[BLOCK_OF_OTHERS:])]
    if task.name == "preference":  # TRL leaves out a pair whose prompt fills max_length
        rows = [row for row in rows if sum(map(len, row.values())) <= LONGEST_PAIR]
    rows = rows[:count]
    if task.name == "classification":
        return [{"text": f"{row['prompt']}\n{row['completion']}", "label": "ab"[i % 2]} for i, row in enumerate(rows)]
    others = [row["completion"] for row in rows[1:] + rows[:1]]
    return [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": other}
        for row, other in zip(rows, others, strict=True)
    ]


BLOCK_OF_OTHERS = 300  # dialogues that further rows begin after
LONGEST_PAIR = 1400  # letters: about 450 tokens with the chat template


def write_data(task: Task, folder: Path) -> tuple[list[str], Path, int]:
    """Returns distft's overrides, the peers' file of rows, and the tokens of the measured rows."""
    rows = rows_of(task, read_pairs(demo_folder() / "chatterbot.jsonl"))
    order = Order(len(rows), SEED).rows(0, len(rows))
    placed = [rows[place] for place in np.argsort(order)]  # so that distft reads them in the order of `rows`
    write_rows(placed, folder / "rows.jsonl")
    model = fetch_model_and_rows()["model"] if task.name == "classification" else demo_folder() / MODEL
    overrides = [f"model.path={model}", f"data.train={folder / 'rows.jsonl'}", "data.eval=null", f"seed={SEED}"]
    overrides += [f"data.max_length={task.max_length}", "clean=none", "data.max_truncated_fraction=1", *task.overrides]
    read = Rows(prepare_rows(overrides), "train")
    if len(read) != len(rows):
        raise RuntimeError(f"distft.prepare took {len(read)} of {len(rows)} rows of {folder / 'rows.jsonl'}")
    picked = [read[int(i)] for i in order]
    if task.name == "classification":
        ids = [row.input_ids.tolist() for row in picked]
        given: dict[str, list[Any]] = {"input_ids": ids, "labels": [i % 2 for i in range(len(rows))]}
    else:
        given = {
            "prompt": [[{"role": "user", "content": row["prompt"]}] for row in rows],
            **{
                side: [[{"role": "assistant", "content": row[side]}] for row in rows] for side in ("chosen", "rejected")
            },
        }
    (folder / "rows.json").write_text(json.dumps(given))
    return overrides, folder / "rows.json", sum(len(row.input_ids) for row in picked[task.rows_per_step :])


MODEL = "smollm2-135m-instruct"


def run_distft(task: Task, overrides: Sequence[str], tokens: int, folder: Path) -> Measured:
    shutil.rmtree(folder, ignore_errors=True)
    words = [*overrides, f"name={folder.name}", f"runs_dir={folder.parent}", "eval=none", "export=false"]
    words += ["train.precision=fp32", "train.epochs=null", f"train.max_steps={task.steps}", "schedule=constant"]
    words += [f"train.global_batch_size={task.rows_per_step}", f"optimizer.lr={LR}", "optimizer.weight_decay=0"]
    peaks = run_watched([sys.executable, "-m", "distft.launch", *words], folder.with_suffix(".log"), environment())
    rows = list(RunFolder(folder).read_metrics("train"))
    shutil.rmtree(RunFolder(folder).checkpoints, ignore_errors=True)
    measured = rows[1:]
    seconds = sum(row["seconds"] + sum((row.get("between") or {}).values()) for row in measured)
    padding = max((row.get("padding") or 0.0 for row in measured), default=0.0)
    return Measured("distft", tokens, seconds, padding, peaks[0], [row["loss"] for row in rows])


def run_peer(task: Task, peer: Peer, python: Path, model: str, rows: Path, folder: Path) -> Measured:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    settings = {"task": task.name, "model": model, "rows": str(rows), "rows_per_step": task.rows_per_step}
    settings |= {"rows_per_forward": peer.rows_per_forward, "steps": task.steps, "lr": LR}
    settings |= {"max_length": task.max_length, "by_length": peer.by_length, "arguments": dict(peer.arguments)}
    (folder / "settings.json").write_text(json.dumps(settings))
    command_line = [str(python), str(PROGRAM), str(folder / "settings.json"), str(folder / "out.json")]
    peaks = run_watched(command_line, folder.with_suffix(".log"), environment() | {"PYTHONPATH": str(CHECKOUT)})
    found = json.loads((folder / "out.json").read_text())
    padding = 1 - found["tokens"] / found["padded"]
    return Measured(peer.name, found["tokens"], sum(found["seconds"][1:]), padding, peaks[0], found["losses"])


def environment() -> dict[str, str]:
    threads = str(len(os.sched_getaffinity(0)))
    return {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": threads}


def measure(task: Task, rounds: int, python: Path, folder: Path) -> list[list[Measured]]:
    """Returns the runs of every round, distft first."""
    folder.mkdir(parents=True, exist_ok=True)
    overrides, rows, tokens = write_data(task, folder)
    model = overrides[0].partition("=")[2]
    found = []
    for number in range(rounds):
        runs = [run_distft(task, overrides, tokens, folder / "distft")]
        for i, peer in enumerate(task.peers):
            runs.append(run_peer(task, peer, python, model, rows, folder / f"peer-{i}"))
        found.append(runs)
        for run in runs:
            text = f"{run.speed:,.0f} tokens/s, padding {run.padding:.0%}, {run.peak_gib:.2f} GiB"
            print(f"{task.name}, round {number + 1}: {run.name}: {text}", flush=True)
    return found


def ratios(rounds: Sequence[Sequence[Measured]]) -> dict[str, Any]:
    """Returns distft's speed and memory over those of the fastest peer, by the median of its rounds."""
    fastest = max(range(1, len(rounds[0])), key=lambda i: median(runs[i].speed for runs in rounds))
    return {
        "fastest": rounds[0][fastest].name,
        "speed": median(runs[0].speed / runs[fastest].speed for runs in rounds),
        "memory": median(runs[0].peak_gib / runs[fastest].peak_gib for runs in rounds),
        "least_memory": median(runs[0].peak_gib / min(run.peak_gib for run in runs[1:]) for runs in rounds),
    }


def main(arguments: list[str]) -> int:
    """Returns 0 where distft is as fast as the fastest peer and needs no more memory than it."""
    given = keywords(arguments, KEYS, required=())
    tasks = listed(given.get("tasks", "classification,preference"))
    if unknown := [name for name in tasks if name not in TASKS]:
        raise ConfigError([f"tasks={','.join(unknown)}: unknown. Allowed: {', '.join(TASKS)}"])
    count = min(len(TASKS[name].peers) for name in tasks)
    if any(not number.isdecimal() or int(number) >= count for number in listed(given.get("peers", ""))):
        raise ConfigError([f"peers={given['peers']}: are numbers below {count}. Try: peers=[0]"])
    if not given.get("rounds", "3").isdecimal():
        raise ConfigError([f"rounds={given['rounds']}: is not a number. Try: rounds=3"])
    venv = absolute(given.get("venv", "~/.cache/distft/peers/venv"))
    python, out = python_of(venv), Path(given.get("out", "benchmarks/results"))
    results: dict[str, Any] = {"command": " ".join(["python -m benchmarks.peers.objectives", *arguments])}
    results |= {"code": code(), "on": describe(), "versions": versions(venv)}
    holds, runs_dir = True, absolute("runs/benchmarks/objectives")
    for name in tasks:
        task = TASKS[name]
        if "peers" in given:
            task = replace(task, peers=tuple(task.peers[int(number)] for number in listed(given["peers"])))
        rounds = measure(task, int(given.get("rounds", "3")), python, runs_dir / name)
        found = ratios(rounds)
        results[name] = {**found, "rounds": [[asdict(run) | {"speed": run.speed} for run in runs] for runs in rounds]}
        print(f"{name}: {found['speed']:.2f} times the speed of: {found['fastest']}; memory {found['memory']:.2f}")
        holds = holds and found["speed"] >= 1 and found["memory"] <= 1
    write_json(out / "objectives.json", results)
    return 0 if holds else 1


if __name__ == "__main__":
    command(main, help=usage("peers.objectives", KEYS, CLAIM))
