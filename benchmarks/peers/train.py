"""One run of a peer, in the peers' own environment: `python train.py SETTINGS.json OUT`, by torchrun for several ranks.

Each rank writes OUT/rank-N.json: seconds and loss of every step, and the rows of every forward with their padding.
Trap: nothing of distft is imported here; the rows come tokenised, in the order in which distft reads them.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # pyright: ignore[reportAttributeAccessIssue]  # the benchmark's folders hide nothing of it
from torch.utils.data import Sampler, SequentialSampler
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import BatchRebalanceSampler, get_length_grouped_indices

IGNORED = -100  # the label of a token without a loss
MEGA_BATCHES = 4  # of TRL's grouping, in steps: its default for 128 rows, 8 per step


class Steps(TrainerCallback):
    """Seconds and loss of every optimizer step; a step ends where the next one begins."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.began = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self.began)
        self.began = now

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))


class Counting:
    """A collator that records the tokens of every forward, with padding, and those of each row."""

    def __init__(self, collate: Any) -> None:
        self.collate = collate
        self.forwards: list[dict[str, Any]] = []

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        lengths = [len(row["input_ids"]) for row in rows]
        targets = [sum(label != IGNORED for label in row["labels"]) for row in rows]
        batch = self.collate(rows)
        self.forwards.append({"padded": batch["input_ids"].numel(), "lengths": lengths, "targets": targets})
        return batch


class InOrder(Sampler[int]):
    """Row indices in a fixed order."""

    def __init__(self, order: list[int]) -> None:
        self.order = order

    def __iter__(self) -> Any:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


def sampler(order: str, rows: Any, arguments: TrainingArguments, warm_up: int) -> Sampler[Any]:
    """Returns the order of the rows: distft's; by length after the warm-up; or distft's, each step cut by cost."""
    lengths = [len(row) for row in rows["input_ids"]]
    if order == "by_length":
        step = warm_up
        grouped = get_length_grouped_indices(
            lengths[warm_up:], step, mega_batch_mult=MEGA_BATCHES, generator=torch.Generator().manual_seed(0)
        )
        return InOrder([*range(warm_up), *(warm_up + index for index in grouped)])
    if order == "rebalanced":
        world, accumulation = max(1, arguments.world_size), arguments.gradient_accumulation_steps
        rank = arguments.process_index if world > 1 else 0
        return BatchRebalanceSampler(lengths, warm_up, world, accumulation, shuffle=False, rank=rank)
    return SequentialSampler(rows)


def arguments_of(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the arguments of every peer; all others keep the peer's defaults."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rows = given["rows_per_forward"]
    return {
        "output_dir": str(folder / "trainer"),
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": given["rows_per_step"] // (rows * world),
        "max_steps": given["steps"],
        "learning_rate": given["lr"],
        "adam_beta1": given["betas"][0],
        "adam_beta2": given["betas"][1],
        "adam_epsilon": given["eps"],
        "weight_decay": given["weight_decay"],
        "max_grad_norm": given["max_grad_norm"],
        "lr_scheduler_type": "constant",
        "bf16": False,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **given["arguments"],
    }


def make_trainer(given: dict[str, Any], rows: Dataset, folder: Path, steps: Steps) -> Trainer:
    """Returns TRL's or transformers' trainer with the sampler of `given`."""
    tokenizer: Any = AutoTokenizer.from_pretrained(given["model"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.float32)
    arguments = arguments_of(given, folder)
    warm_up = given["rows_per_step"]
    if given["library"] == "trl":
        from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]  # in the peers' environment

        own, options = SFTTrainer, SFTConfig(**arguments, max_length=given["max_length"])
        further: dict[str, Any] = {}
    else:
        own, options = Trainer, TrainingArguments(**arguments)
        further = {"data_collator": DataCollatorForSeq2Seq(tokenizer)}

    class Ordered(own):  # pyright: ignore[reportGeneralTypeIssues]  # one of two trainers
        def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any]:
            return sampler(given["order"], train_dataset or self.train_dataset, self.args, warm_up)

    return Ordered(
        model=model, args=options, train_dataset=rows, processing_class=tokenizer, callbacks=[steps], **further
    )


def main() -> None:
    given, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    rows = Dataset.from_dict(json.loads(Path(given["rows"]).read_text()))
    steps = Steps()
    trainer = make_trainer(given, rows, folder, steps)
    settings: Any = trainer.args
    model: Any = trainer.model
    counting = Counting(trainer.data_collator)
    trainer.data_collator = counting
    trainer.train()
    found: dict[str, Any] = {"seconds": steps.seconds, "losses": steps.losses, "forwards": counting.forwards}
    found["accumulation"] = settings.gradient_accumulation_steps
    found["settings"] = {
        "gradient_checkpointing": settings.gradient_checkpointing,
        "optimizer": str(settings.optim),
        "attention": model.config._attn_implementation,
        "loss": getattr(settings, "loss_type", "of the model"),
        "threads": torch.get_num_threads(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"rank-{settings.process_index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
