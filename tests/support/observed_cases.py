"""The runs of tests/test_worker.py: unusual settings, and rows that are identified by their length."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from distft.run import RunFolder
from tests.support.ranks import run_ranks

TRAINED, HELD_OUT = 12, 7
LENGTHS = [12 + 3 * i for i in range(TRAINED)]  # tokens
TARGETS = [2, 7, 5, 3, 8, 6, 4, 2, 7, 5, 3, 8]  # the completion and the end
LENGTHS_HELD_OUT = [11 + 2 * i for i in range(HELD_OUT)]

COMMON = {
    "model": "gpt2", "model.tiny": "true", "seed": 7, "export": "false", "launcher.processes_per_node": 2,
    "data.max_length": 48, "data.chat_template": "none", "checkpoint.every_steps": "null", "train.epochs": "null",
    "train.precision": "fp32", "train.global_batch_size": 12, "train.micro_batch_size": 2,
}  # fmt: skip
RISING = {"optimizer": "sgd", "optimizer.momentum": 0, "train.max_grad_norm": "null", "schedule": "constant"}
STILL = {"optimizer.lr": 1e-12, "eval.every_steps": 1}
DROPOUT = {"model.tiny_architecture.resid_pdrop": 0.3, "train.max_steps": 3, "eval.every_steps": 2}
CASES: dict[str, dict[str, Any]] = {
    "adamw": {
        "optimizer.lr": 3e-3, "optimizer.betas": "[0.7,0.9]", "optimizer.eps": 1e-4, "optimizer.weight_decay": 0.3,
        "schedule": "linear", "schedule.warmup_steps": 3, "schedule.final_fraction": 0.25, "train.max_steps": 8,
        "loss.label_smoothing": 0.1, "train.max_grad_norm": 0.05, "eval.every_steps": 3, "eval.micro_batch_size": 4,
    },
    "sgd": {
        "optimizer": "sgd", "optimizer.lr": 0.5, "optimizer.momentum": 0.6, "optimizer.nesterov": "true",
        "schedule": "wsd", "schedule.warmup_steps": 1, "schedule.decay_steps": 2, "train.max_grad_norm": "null",
        "strategy": "fsdp", "train.epochs": 2.5, "train.global_batch_size": 8, "eval": "none",
    },
    "clipped": {
        "optimizer": "sgd", "optimizer.lr": 2.0, "optimizer.momentum": 0, "train.max_grad_norm": 0.125,
        "schedule": "constant", "strategy": "zero2", "train.max_steps": 1, "eval": "none",
    },
    "cosine": {
        "optimizer.lr": 1e-3, "schedule.warmup_steps": 2, "schedule.final_fraction": 0.5,
        "train.max_steps": 6, "eval": "none", "checkpoint.every_minutes": 1e-6, "checkpoint.keep": 9,
    },
    "tokens": {
        "train.global_batch_size": "null", "train.global_batch_tokens": 115, "train.micro_batch_tokens": 60,
        "train.micro_batch_size": None, "data.packing": "true", "train.max_steps": 7, "eval": "none",
    },
    "lora": {"tuning": "lora", "tuning.rank": 3, "train.max_steps": 1, "eval": "none"},
    "alpha": {"tuning": "lora", "tuning.rank": 3, "tuning.alpha": 8, "train.max_steps": 1, "eval": "none"},
    "staged": {
        "cache_dir": "RUNS/../of-small-shards", "data.shards": "[0,2]", "shard_bytes": 400, "data.max_length": 44,
        "data.max_truncated_fraction": 1, "train.global_batch_size": 4, "train.max_steps": 2, "eval": "none",
        "launcher.stage": "node_local", "launcher.stage_dir": "RUNS/../disk",
    },
    "dropout": DROPOUT | {"train.profile": "true", "train.activation_checkpointing": "full"},
    "again": DROPOUT,
    "other": DROPOUT | {"seed": 8, "train.global_batch_size": 4},
    "dropout of adapters": DROPOUT | {
        "model.tiny_architecture.resid_pdrop": 0, "tuning": "lora", "tuning.rank": 3, "tuning.dropout": 0.4,
        "eval": "none", "eval.every_steps": "null",
    },
    "kept": {
        "checkpoint.every_steps": 1, "checkpoint.keep": 1, "checkpoint.keep_every": 3, "checkpoint.background": "true",
        "train.max_steps": 8, "eval": "none",
    },
    "saved": {
        "checkpoint.every_steps": 2, "train.max_steps": 5, "eval.at_ends": "false", "eval.every_steps": 2,
        "checkpoint.keep": 9, "optimizer.lr": 1e-12,
    },
    "looked": {"train.check_replicas_every": 2, "train.max_steps": 5, "eval": "none"},
    "best": RISING | {
        "optimizer.lr": 2.5, "schedule.warmup_steps": 7, "train.max_steps": 8, "eval.every_steps": 1,
        "checkpoint.every_steps": 1, "checkpoint.keep": 1,
    },
    "metric": RISING | {
        "optimizer.lr": 2.5, "schedule.warmup_steps": 7, "train.max_steps": 8, "eval.every_steps": 1,
        "checkpoint.every_steps": 1, "checkpoint.keep": 1, "eval.metric": "accuracy",
    },
    "goal": RISING | {
        "optimizer.lr": 1.5, "schedule.warmup_steps": 7, "train.max_steps": 8, "eval.every_steps": 1,
        "checkpoint.every_steps": 1, "checkpoint.keep": 1, "eval.goal": "maximize",
    },
    "patience": STILL | {"eval.early_stopping.patience": 3, "train.max_steps": 9},
    "min_delta": {
        "optimizer.lr": 3e-3, "eval.every_steps": 1, "eval.early_stopping.patience": 2,
        "eval.early_stopping.min_delta": 50.0, "train.max_steps": 9,
    },
    "plain": {"train.max_steps": 2, "eval.every_steps": 1, "optimizer.lr": 3e-3},
    "noise": {"train.max_steps": 2, "eval.every_steps": 1, "optimizer.lr": 3e-3, "train.neftune_alpha": 7},
    "dropped": {"train.max_steps": 2, "eval.every_steps": 1, "optimizer.lr": 3e-3, "model.dropout": 0.3},
    "averaged": {"train.max_steps": 2, "eval.every_steps": 1, "optimizer.lr": 3e-3, "train.ema_decay": 0.5},
    "not averaged": {
        "train.max_steps": 2, "eval.every_steps": 1, "optimizer.lr": 3e-3, "train.ema_decay": 0.5,
        "eval.weights": "trained",
    },
    "watched": STILL | {"eval.train_rows": 5, "train.max_steps": 2},
    "better": {
        "optimizer.lr": 3e-3, "eval.every_steps": 1, "eval.early_stopping.patience": 1, "train.max_steps": 4,
        "checkpoint.save_best": "false",
    },
    "resumed": STILL | {"eval.early_stopping.patience": 4, "train.max_steps": 9, "stop_at": 2},
    "resumed again": STILL | {"name": "resumed", "eval.early_stopping.patience": 4, "train.max_steps": 9},
    "never": {
        "name": "looked", "train.check_replicas_every": 2, "train.max_steps": 5, "eval": "none",
        "checkpoint.resume": "never", "stop_at": 1,
    },
    "from a path": {
        "optimizer.lr": 1e-12, "eval": "none", "train.max_steps": 9, "checkpoint.every_steps": 2, "stop_at": 5,
        "checkpoint.resume": "RUNS/saved/checkpoints/step-00000004", "checkpoint.allow_change": "[train,eval]",
    },
    "stop": {"train.on_non_finite": "stop", "train.max_steps": 4, "eval": "none", "spoil": [2]},
    "skip": {
        "train.on_non_finite": "skip", "train.max_non_finite": 2, "train.max_steps": 9, "eval": "none",
        "spoil": [2, 4, 5],
    },
    "rewind": {
        "train.on_non_finite": "rewind", "train.max_non_finite": 1, "train.max_steps": 9, "eval": "none",
        "checkpoint.every_steps": 2, "train.global_batch_size": 4, "spoil": [3, 4],
    },
    "bf16": {
        "train.precision": "bf16", "strategy": "zero2", "strategy.stage": 3, "strategy.bucket_parameters": 4321,
        "strategy.persist_parameters": 99, "strategy.overlap_communication": "true", "train.max_steps": 1,
        "eval": "none",
    },
    "hsdp": {
        "strategy": "hsdp", "strategy.shard_size": 1, "train.max_steps": 1, "eval": "none", "optimizer.fused": "false",
        "model.attention": "eager",
    },
    "offload": {"strategy": "zero2", "strategy.offload": "true", "train.max_steps": 1, "eval": "none"},
    "compiled": {"train.compile": "true", "train.max_steps": 1, "built": True},
}  # fmt: skip
OWN = ("stop_at", "spoil", "built", "shard_bytes")  # of a case, and no override


@dataclass(frozen=True)
class Ran:
    """The outcome of a case."""

    overrides: dict[str, Any]
    answer: dict[str, Any]

    @property
    def run(self) -> RunFolder:
        return RunFolder(Path(self.answer["run"]))

    @cached_property
    def steps(self) -> list[dict[str, Any]]:
        return list(self.run.read_metrics("train"))

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        return list(self.run.read_metrics("eval"))

    def forwards(self, mode: str, step: int | None = None) -> list[dict[str, Any]]:
        """Returns the forwards of all ranks."""
        found = [each | {"rank": i} for i, rank in enumerate(self.answer["ranks"]) for each in rank["forwards"]]
        return [each for each in found if each["mode"] == mode and step in (None, each["step"])]

    def rows(self, step: int, mode: str = "step") -> list[int]:
        """Returns the training rows that the step read, in order, without fillers."""
        lengths = [length for each in self.forwards(mode, step) for length in each["lengths"]]
        return sorted(LENGTHS.index(length) for length in lengths if length > 1)

    def saved(self) -> list[int]:
        return sorted(int(folder.name.removeprefix("step-")) for folder in self.run.checkpoints.glob("step-*"))


def write_texts(file: Path, lengths: list[int], targets: list[int]) -> None:
    """Writes rows of these numbers of tokens, one per byte plus the end, of which the last ones are trained."""
    rows = []
    for i, (length, trained) in enumerate(zip(lengths, targets, strict=False)):
        completion = "".join(chr(97 + (3 * i + 5 * j) % 26) for j in range(trained - 1))
        prompt = "".join(chr(65 + (7 * i + j * j) % 26) for j in range(length - trained))
        rows.append({"prompt": prompt, "completion": completion})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def train_all(folder: Path, cases: Mapping[str, Mapping[str, Any]] = CASES) -> dict[str, Ran]:
    """Trains all cases on one group of two processes; returns their outcomes."""
    write_texts(folder / "train.jsonl", LENGTHS, TARGETS)
    write_texts(folder / "eval.jsonl", LENGTHS_HELD_OUT, TARGETS)
    places = {"data.train": folder / "train.jsonl", "data.eval": folder / "eval.jsonl", "runs_dir": folder / "runs"}
    places["cache_dir"] = folder / "cache"
    settings = {name: {"name": name.replace(" ", "-"), **places, **COMMON, **case} for name, case in cases.items()}
    specs = {
        name: {key: value for key, value in case.items() if key in OWN}
        | {
            "overrides": [
                f"{key}={str(value).replace('RUNS', str(folder / 'runs'))}"
                for key, value in case.items()
                if key not in OWN and value is not None
            ]
        }
        for name, case in settings.items()
    }
    (folder / "cases.json").write_text(json.dumps(specs))
    answers = run_ranks(2, "tests.support.observed", str(folder / "cases.json"))
    return {name: Ran(settings[name], answers[name]) for name in cases}
