"""Early stopping on a real model: `python -m benchmarks.overfitting` trains SmolLM2 on 200 dialogues until it stops.

Of the ChatterBot corpus, 200 dialogues are trained on at a high rate, and 100 others are held out. The run must stop
exactly `patience` evaluations after its best one and export that step's weights. The same command is then killed with
SIGKILL after the best evaluation and started again: the stop and the sha256 of the exported weights must be the same.
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
from benchmarks.rows import demo_folder, read_pairs, write_rows
from distft.config import command
from distft.config.command import keywords, usage
from distft.run import RunFolder, write_json
from distft.runtime.environment import describe

KEYS = {"out": "folder of the results (default benchmarks/results)", "seed": "of the split (default 0)"}
CLAIM = "Writes OUT/overfitting.json: evaluations, best step, stop and hash of the weights, straight and killed."
TRAINED, HELD_OUT = 200, 100
EVERY, PATIENCE, MOST_STEPS = 5, 3, 200
SETTINGS = (
    *("export=true", "clean=none", "data.max_length=96", "train.epochs=null", f"train.max_steps={MOST_STEPS}"),
    *("train.global_batch_size=40", "train.micro_batch_tokens=1024", "optimizer.lr=3e-4", "schedule=constant"),
    *(f"eval.every_steps={EVERY}", f"eval.early_stopping.patience={PATIENCE}", "eval.train_rows=40"),
    f"checkpoint.every_steps={2 * EVERY}",
)


def write_splits(folder: Path, seed: int) -> list[str]:
    pairs = sorted(
        read_pairs(demo_folder() / "chatterbot.jsonl"), key=lambda pair: (pair["prompt"], pair["completion"])
    )
    random.Random(seed).shuffle(pairs)
    write_rows(pairs[:TRAINED], folder / "train.jsonl")
    write_rows(pairs[TRAINED : TRAINED + HELD_OUT], folder / "eval.jsonl")
    return [f"data.train={folder / 'train.jsonl'}", f"data.eval={folder / 'eval.jsonl'}"]


def start(folder: Path, name: str, overrides: Sequence[str]) -> "subprocess.Popen[bytes]":
    model = demo_folder() / "smollm2-135m-instruct"
    words = [f"name={name}", f"runs_dir={folder}", f"model.path={model}", *overrides, *SETTINGS]
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
        "sha256": hashlib.sha256((run.final / "model.safetensors").read_bytes()).hexdigest(),
    }


def main(arguments: list[str]) -> int:
    """Returns 0 where both runs stop at the same step, `patience` evaluations after the best, with equal weights."""
    given = keywords(arguments, KEYS, required=())
    out = Path(given.get("out", "benchmarks/results"))
    with tempfile.TemporaryDirectory() as folder:
        overrides = write_splits(Path(folder), int(given.get("seed", "0")))
        straight, killed = (RunFolder(Path(folder) / name) for name in ("straight", "killed"))
        if start(Path(folder), "straight", overrides).wait() != 0:
            return 1
        first = found(straight)
        kill_after(start(Path(folder), "killed", overrides), killed, first["best"] + EVERY)
        if start(Path(folder), "killed", overrides).wait() != 0:
            return 1
        second = found(killed)
    typed = " ".join(["python -m benchmarks.overfitting", *arguments])
    results = {"command": typed, "code": code(), "on": describe(), "straight": first, "killed": second}
    write_json(out / "overfitting.json", results)
    same = all(first[key] == second[key] for key in ("state", "stop", "best", "sha256"))
    stops = first["state"] == "stopped_early" and first["stop"] == first["best"] + PATIENCE * EVERY
    print(f"best step {first['best']}, stopped at {first['stop']}; killed: the same {same}")
    return 0 if same and stops and second["attempts"] == 2 else 1


if __name__ == "__main__":
    command(main, help=usage("overfitting", KEYS, CLAIM))
