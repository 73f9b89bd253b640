"""One run of TRL's DPOTrainer or transformers' Trainer, in the peers' own environment.

`python objectives_train.py SETTINGS.json OUT.json` writes the seconds and loss of every step, and the tokens of every
forward with their padding. Trap: nothing of distft
is imported here; the rows come in distft's order.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # pyright: ignore[reportAttributeAccessIssue]  # the benchmark's folders hide nothing of it
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

from benchmarks.peers.train import Steps


class Counting:
    """A collator that records the tokens of every forward: real ones, and with padding."""

    def __init__(self, collate: Any) -> None:
        self.collate = collate
        self.forwards: list[tuple[int, int]] = []

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        batch = self.collate(rows)
        self.forwards.append((int(batch["attention_mask"].sum()), batch["input_ids"].numel()))
        return batch


def arguments_of(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    rows = given["rows_per_forward"]
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": given["rows_per_step"] // rows,
        "max_steps": given["steps"],
        "learning_rate": given["lr"],
        "weight_decay": 0.0,
        "lr_scheduler_type": "constant",
        "bf16": False,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **given["arguments"],
    }


def in_order(rows: dict[str, list[Any]], given: dict[str, Any], lengths: list[int]) -> Dataset:
    """Returns the rows in distft's order; by length after the step that warms up, if requested."""
    order, warm_up = list(range(len(lengths))), given["rows_per_step"]
    if given["by_length"]:
        grouped = get_length_grouped_indices(lengths[warm_up:], warm_up, generator=torch.Generator().manual_seed(0))
        order = [*range(warm_up), *(warm_up + i for i in grouped)]
    return Dataset.from_dict({name: [values[i] for i in order] for name, values in rows.items()})


def without_shuffling(own: Any) -> Any:
    class Ordered(own):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(train_dataset or self.train_dataset)

    return Ordered


def classification(given: dict[str, Any], rows: dict[str, list[Any]], folder: Path, steps: Steps) -> Trainer:
    model = AutoModelForSequenceClassification.from_pretrained(given["model"], dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(given["model"])
    lengths = [len(ids) for ids in rows["input_ids"]]
    return without_shuffling(Trainer)(
        model=model,
        args=TrainingArguments(**arguments_of(given, folder)),
        train_dataset=in_order(rows, given, lengths),
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[steps],
    )


def preference(given: dict[str, Any], rows: dict[str, list[Any]], folder: Path, steps: Steps) -> Trainer:
    """Returns a DPOTrainer; its texts are tokenized by itself, as its users have it."""
    from trl import DPOConfig, DPOTrainer  # pyright: ignore[reportMissingImports]  # in the peers' environment

    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.float32)
    lengths = [sum(map(len, sides)) for sides in zip(rows["chosen"], rows["rejected"], strict=True)]
    own = DPOConfig(**arguments_of(given, folder), max_length=given["max_length"])
    return without_shuffling(DPOTrainer)(
        model=model,
        args=own,
        train_dataset=in_order(rows, given, lengths),
        processing_class=tokenizer,
        callbacks=[steps],
    )


def main() -> None:
    given, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    rows = json.loads(Path(given["rows"]).read_text())
    steps = Steps()
    make = {"classification": classification, "preference": preference}[given["task"]]
    trainer = make(given, rows, out.with_suffix(".trainer"), steps)
    counting = Counting(trainer.data_collator)
    trainer.data_collator = counting
    trainer.train()
    accumulation = trainer.args.gradient_accumulation_steps
    forwards = counting.forwards[accumulation : accumulation * given["steps"]]  # a loader reads ahead
    found = {"seconds": steps.seconds, "losses": steps.losses, "tokens": sum(real for real, _ in forwards)}
    out.write_text(json.dumps(found | {"padded": sum(padded for _, padded in forwards)}))


if __name__ == "__main__":
    main()
