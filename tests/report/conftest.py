"""A finished run folder, written by its contract without a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from distft.run import Plan, RunFolder, write_json

HOSTILE = "<script>alert(1)</script>"


def train_row(step: int, **changes: Any) -> dict[str, Any]:
    row = {
        "step": step, "split": "train", "loss": 2.0 / step, "accuracy": 0.5, "grad_norm": 1.5, "learning_rate": 1e-4,
        "tokens": 900, "target_tokens": 300, "seconds": 9.0, "tokens_per_second": 100.0, "peak_memory_gib": 3.25,
    }  # fmt: skip
    return row | changes


def eval_row(step: int, loss: float) -> dict[str, Any]:
    return {
        "step": step, "split": "eval", "loss": loss, "perplexity": 10 * loss, "accuracy": 0.4 + step / 100,
        "target_tokens": 1300,
    }  # fmt: skip


ROWS = [eval_row(0, 2.5), *(train_row(step) for step in range(1, 9)), eval_row(8, 1.5)]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunFolder]:
    """Gives `make_run(rows=..., **config) -> RunFolder`."""

    def make(rows: list[dict[str, Any]] = ROWS, state: str = "completed", **changes: Any) -> RunFolder:
        run = RunFolder(tmp_path / "runs" / "a run")
        config = {
            "name": "a run", "seed": 3, "model": {"path": "/models/real"}, "data": {"train": "rows.jsonl", "eval": 0.1},
            "strategy": {"_target_": "distft.strategies.zero.Zero", "stage": 3, "offload": False},
            "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 1e-4},
            "train": {"precision": "fp32"},
        }  # fmt: skip
        run.path.mkdir(parents=True)
        run.config.write_text("# optimizer=adamw strategy=zero3\n" + yaml.safe_dump(config | changes, sort_keys=False))
        run.command.write_text("python -m distft.launch name='a run'\n")
        sizes = {"parameters": 2**29, "gradients": 2**29, "optimizer": 2**30, "total": 2**31, "host": 0}
        prepared = tmp_path / "prepared"
        run.write_plan(
            Plan(
                nodes=1,
                processes_per_node=2,
                world=2,
                micro_batch_size=4,
                accumulation=3,
                steps=8,
                rows=100,
                eval_rows=10,
                epochs=1.92,
                tokens=7200,
                estimated=False,
                parameters=134_515_008,
                model_dir="/m",
                tokenizer_dir="/m",
                data_dir=str(prepared),
                memory={"ddp": sizes, "zero3": sizes},
            )
        )
        write_json(prepared / "report.json", {"read": 112, "dropped": {"no_target": 2}, "truncated": 7})
        write_json(run.environment, {"packages": {"torch": "2.13.0"}, "host": "node-1"})
        run.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        run.write_status(state=state, step=8)
        return run

    return make
