"""DPO on real pairs: `python -m benchmarks.preference` trains SmolLM2 and records the held-out preference accuracy.

A pair is a question of the ChatterBot corpus with its true reply, against the reply of another question whose length is
the closest. Rows are split by conversation: all pairs of a question are in one split, and a rejected reply comes from
the pair's own split. Accuracy is the share of held-out pairs whose chosen reply has the higher reward. Before training
all rewards are zero, so it is zero there, and a coin would give one half.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measurement import code
from benchmarks.rows import Pair, demo_folder, read_pairs
from distft.config import ConfigError, command
from distft.config.command import keywords, usage
from distft.run import RunFolder, write_json
from distft.runtime.environment import describe

KEYS = {
    "steps": "optimizer steps of 8 pairs (default 60)",
    "pairs": "training pairs at most (default: all)",
    "out": "folder of the results (default benchmarks/results)",
}
CLAIM = "Writes OUT/preference.json: preference accuracy, margin and rewards on held-out pairs, before and after."
HELD_OUT = 0.2  # of the questions
LEAST_ACCURACY = 0.6


def split_of(question: str) -> str:
    """Returns `eval` for a fifth of the questions, by their hash."""
    digest = hashlib.blake2b(" ".join(question.lower().split()).encode(), digest_size=8).digest()
    return "eval" if int.from_bytes(digest, "big") / 2**64 < HELD_OUT else "train"


def preference_rows(pairs: Sequence[Pair]) -> list[dict[str, str]]:
    """Returns each question with its reply, and as rejected the reply of another one of the closest length."""
    by_length = sorted(pairs, key=lambda pair: (len(pair["completion"]), pair["completion"], pair["prompt"]))
    rows = []
    for i, pair in enumerate(by_length):
        others = [*by_length[i + 1 : i + 20], *reversed(by_length[max(0, i - 20) : i])]
        other = next(
            each for each in others if each["completion"] != pair["completion"] and each["prompt"] != pair["prompt"]
        )
        rows.append({"prompt": pair["prompt"], "chosen": pair["completion"], "rejected": other["completion"]})
    return sorted(rows, key=lambda row: hashlib.blake2b(json.dumps(row).encode()).digest())


def write_splits(pairs: Sequence[Pair], folder: Path, most: int | None) -> dict[str, Path]:
    """Writes both splits; returns their files."""
    files = {}
    for split in ("train", "eval"):
        rows = preference_rows([pair for pair in pairs if split_of(pair["prompt"]) == split])
        rows = rows[:most] if split == "train" else rows
        files[split] = folder / f"{split}.jsonl"
        files[split].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return files


def main(arguments: list[str]) -> int:
    """Returns 0 where the accuracy exceeds 0.6."""
    given = keywords(arguments, KEYS, required=())
    try:
        steps, most = int(given.get("steps", 60)), int(given["pairs"]) if "pairs" in given else None
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    demo, out = demo_folder(), Path(given.get("out", "benchmarks/results"))
    with tempfile.TemporaryDirectory() as folder:
        files = write_splits(read_pairs(demo / "chatterbot.jsonl"), Path(folder), most)
        model = demo / "smollm2-135m-instruct"
        overrides = [
            *("experiment=dpo_lora", "name=preference", f"runs_dir={folder}", "export=false", "clean=none"),
            *(f"model.path={model}", f"data.train={files['train']}", f"data.eval={files['eval']}"),
            *("data.max_length=192", "train.global_batch_size=8", "train.epochs=null", f"train.max_steps={steps}"),
            *(f"eval.every_steps={max(1, steps // 3)}", "optimizer.lr=5e-4"),
        ]
        done = subprocess.run([sys.executable, "-m", "distft.launch", *overrides], check=False)
        run = RunFolder(Path(folder) / "preference")
        if not run.path.is_dir() or run.read_status()["state"] != "completed":
            return done.returncode or 1
        rows: list[Any] = list(run.read_metrics("eval"))
        trained = list(run.read_metrics("train"))
        seconds = sum(row["seconds"] for row in trained)
    typed = " ".join(["python -m benchmarks.preference", *arguments])
    results = {"command": typed, "code": code(), "on": describe(), "seconds": round(seconds, 1), "eval": rows}
    results |= {"train": [trained[0], trained[-1]]}
    write_json(out / "preference.json", results)
    accuracy = rows[-1]["preference_accuracy"]
    print(f"held-out preference accuracy {accuracy:.3f} of {rows[-1]['target_tokens']} pairs, {seconds:.0f} s in steps")
    return 0 if accuracy > LEAST_ACCURACY else 1


if __name__ == "__main__":
    command(main, help=usage("preference", KEYS, CLAIM))
