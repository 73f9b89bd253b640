"""`python -m benchmarks.tasks.trainer`: the losses of transformers' Trainer on the same rows, weights and steps.

Both start from one folder, whose head is distft's new one and whose dropout is 0, and read the rows in distft's order.
The Trainer pads its batches; distft packs rows without padding. Returns 1 where a loss differs by more than 1e-5.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset  # pyright: ignore[reportAttributeAccessIssue]  # the benchmark's folders hide nothing of it
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from benchmarks.peers.train import Steps
from benchmarks.tasks import HELD_OUT, fetch_model_and_rows
from distft.data.order import Order, order_version
from distft.data.shards import Rows
from distft.run import RunFolder

STEPS, ROWS, TOLERANCE = 10, 16, 1e-5
LR, BETAS, EPS = 5e-5, (0.9, 0.95), 1e-8
OURS = (
    *("data.max_length=32", f"data.eval={HELD_OUT}", f"train.max_steps={STEPS}", f"train.global_batch_size={ROWS}"),
    *(f"optimizer.lr={LR}", f"optimizer.betas=[{BETAS[0]},{BETAS[1]}]", f"optimizer.eps={EPS}", "train.precision=fp32"),
    *("optimizer.weight_decay=0", "schedule=constant", "schedule.warmup_steps=0", "eval.at_ends=false"),
    *("train.micro_batch_tokens=64", "export.at=latest", "checkpoint.save_best=false"),
)


def starting_folder(task: str, assets: dict[str, Path], folder: Path) -> Path:
    """Returns the folder of the model with a new head, without dropout: the export of a run whose steps change
    nothing."""
    words = [f"model.path={assets['model']}", f"model.task={task}", f"data.train={assets[task]}", *OURS]
    launch([*words, "train.max_steps=1", "optimizer.lr=1e-12", "name=start", f"runs_dir={folder}"])
    start = folder / "start" / "final"
    facts = json.loads((start / "config.json").read_text())
    dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"), 0.0)
    (start / "config.json").write_text(json.dumps(facts | dropout))
    return start


def launch(words: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "distft.launch", *words], check=True)


def losses_of_trainer(start: Path, run: RunFolder, folder: Path) -> list[float]:
    """Returns the loss of each of the Trainer's steps on the run's rows, in the run's order."""
    plan = run.read_plan()
    rows = Rows(plan.rows_dir, "train")
    order = Order(len(rows), run.read_config()["seed"], order_version(plan.reads)).rows(0, STEPS * ROWS)
    picked = [rows[int(i)] for i in order]
    model: Any = AutoModelForSequenceClassification.from_pretrained(start, dtype=torch.float32)
    labels: list[Any] = [float(row.labels[0]) for row in picked if row.labels is not None]
    if model.config.problem_type != "regression":
        labels = [int(label) for label in labels]
    data = Dataset.from_dict({"input_ids": [row.input_ids.astype(np.int64) for row in picked], "labels": labels})
    steps = Steps()

    class Ordered(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(data)  # pyright: ignore[reportArgumentType]  # a datasets.Dataset has a length

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=ROWS,
        max_steps=STEPS,
        learning_rate=LR,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        adam_epsilon=EPS,
        weight_decay=0.0,
        lr_scheduler_type="constant",
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    tokenizer: Any = AutoTokenizer.from_pretrained(start)
    collator = DataCollatorWithPadding(tokenizer)
    Ordered(model=model, args=arguments, train_dataset=data, data_collator=collator, callbacks=[steps]).train()
    return steps.losses


def main() -> int:
    """Prints the largest difference of each task; returns 1 where one is above the tolerance."""
    assets, worst = fetch_model_and_rows(), 0.0
    for task in ("sequence_classification", "regression"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            start = starting_folder(task, assets, folder)
            words = [f"model.path={start}", f"model.task={task}", f"data.train={assets[task]}", *OURS]
            launch([*words, "name=ours", f"runs_dir={folder}"])
            ours = [row["loss"] for row in RunFolder(folder / "ours").read_metrics("train")]
            theirs = losses_of_trainer(start, RunFolder(folder / "ours"), folder)
        difference = max(abs(one - other) / other for one, other in zip(ours, theirs, strict=True))
        worst = max(worst, difference)
        print(f"{task}: {STEPS} losses differ by at most {difference:.1e}; {ours[0]:.6f} to {ours[-1]:.6f}")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
