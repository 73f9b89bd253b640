"""Early stopping on a real model: `python -m benchmarks.overfitting` trains MiniLM on 200 rows until it stops.

Of the VADER lexicon's terms, 200 are trained on by the sign of their rating, and 1,000 are held out. The run must
stop exactly `patience` evaluations after its best one and export that step's weights. The same command is then killed
with SIGKILL after the best evaluation and started again: the stop and the sha256 of the exported weights must be the
same. The best step is also exported by hand, and must have that hash.
"""

import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measurement import code
from benchmarks.tasks import fetch_model_and_rows
from distft.config import command
from distft.config.command import keywords, usage
from distft.export.__main__ import main as export
from distft.run import RunFolder, write_json
from distft.runtime.environment import describe

KEYS = {"out": "folder of the results (default benchmarks/results)", "seed": "of the split (default 0)"}
CLAIM = "Writes OUT/overfitting.json: evaluations, best step, stop and hash of the weights, straight and killed."
TRAINED, HELD_OUT = 200, 1000
EVERY, PATIENCE, MOST_STEPS = 5, 3, 400
SETTINGS = (
    *("model.task=sequence_classification", "export=true", "data.max_length=32", "train.epochs=null"),
    *(f"train.max_steps={MOST_STEPS}", "train.global_batch_size=40", "train.micro_batch_tokens=512"),
    *("optimizer.lr=2e-4", "schedule=constant", f"eval.every_steps={EVERY}", "eval.train_rows=200"),
    *(f"eval.early_stopping.patience={PATIENCE}", f"checkpoint.every_steps={2 * EVERY}"),
)


def write_splits(rows: Path, folder: Path, seed: int) -> list[str]:
    lines = sorted(rows.read_text().splitlines(keepends=True))
    random.Random(seed).shuffle(lines)
    (folder / "train.jsonl").write_text("".join(lines[:TRAINED]))
    (folder / "eval.jsonl").write_text("".join(lines[TRAINED : TRAINED + HELD_OUT]))
    return [f"data.train={folder / 'train.jsonl'}", f"data.eval={folder / 'eval.jsonl'}"]


def start(folder: Path, name: str, overrides: Sequence[str]) -> "subprocess.Popen[bytes]":
    words = [f"name={name}", f"runs_dir={folder}", *overrides, *SETTINGS]
    return subprocess.Popen([sys.executable, "-m", "distft.launch", *words])


def kill_after(process: "subprocess.Popen[bytes]", run: RunFolder, step: int) -> None:
    """SIGKILLs the launch once `step` is evaluated; its ranks die with it."""
    while step not in [row["step"] for row in run.read_metrics("eval")]:
        if process.poll() is not None:
            raise RuntimeError("the run ended before it was killed")
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()


def found(run: RunFolder) -> dict[str, Any]:
    status = run.read_status()
    losses = {row["step"]: row["loss"] for row in run.read_metrics("eval")}
    return {
        "state": status["state"],
        "stop": status["step"],
        "best": min(losses, key=lambda step: (losses[step], step)),
        "attempts": status["attempt"],
        "eval_loss": losses,
        "train_loss": {row["step"]: row["loss"] for row in run.read_metrics("train_eval")},
        "sha256": digest(run.final),
    }


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def main(arguments: list[str]) -> int:
    """Returns 0 where both runs stop at the same step, `patience` evaluations after the best, with equal weights."""
    given = keywords(arguments, KEYS, required=())
    out = Path(given.get("out", "benchmarks/results"))
    with tempfile.TemporaryDirectory() as folder:
        assets = fetch_model_and_rows()
        rows = assets["sequence_classification"]
        overrides = [f"model.path={assets['model']}", *write_splits(rows, Path(folder), int(given.get("seed", "0")))]
        straight, killed = (RunFolder(Path(folder) / name) for name in ("straight", "killed"))
        if start(Path(folder), "straight", overrides).wait() != 0:
            return 1
        first = found(straight)
        kill_after(start(Path(folder), "killed", overrides), killed, first["best"] + EVERY)
        if start(Path(folder), "killed", overrides).wait() != 0:
            return 1
        second = found(killed)
        if export([f"run={straight.path}", f"at=step-{first['best']}", f"out={folder}/by-hand"]) != 0:
            return 1
        by_hand = digest(Path(folder, "by-hand"))
    typed = " ".join(["python -m benchmarks.overfitting", *arguments])
    results = {"command": typed, "code": code(), "on": describe(), "straight": first, "killed": second}
    results["sha256 of the best step, exported by hand"] = by_hand
    write_json(out / "overfitting.json", results)
    same = all(first[key] == second[key] for key in ("state", "stop", "best", "sha256")) and by_hand == first["sha256"]
    stops = first["state"] == "stopped_early" and first["stop"] == first["best"] + PATIENCE * EVERY
    print(f"best step {first['best']}, stopped at {first['stop']}; killed: the same {same}")
    return 0 if same and stops and second["attempts"] == 2 else 1


if __name__ == "__main__":
    command(main, help=usage("overfitting", KEYS, CLAIM))
