"""The sections with a `_target_`: what is called for each part of a run, and the keywords that are distft's own.

Keywords that only a target's signature names, such as those of torch's optimizers, are not listed here; `check` reads
them from its source. A default here is what readers see where the word's YAML does not have the key: zero trials for a
sweep that is a grid, no time limits counted for a launcher without them.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from distft.config.key import Count, Fraction, Group, Index, NotNegative, Number, Part, Positive, Share


class Optimizer(Part):
    """The optimizer; `_partial_`: its parameters come from the training loop."""

    lr: Annotated[Number, Field(gt=0, le=1000)] = Field(default=1e-3, description="highest learning rate")
    weight_decay: NotNegative = Field(default=0.0, description="decoupled or L2, as the optimizer defines it")
    eps: Positive = Field(default=1e-8, description="keeps the division by the second moment finite")
    momentum: Share = Field(default=0.0, description="of SGD")


class Schedule(Part):
    """The learning rate over the steps, as a factor."""

    warmup_steps: NotNegative = Field(
        default=0, description="optimizer steps until the learning rate is reached; below 1: that share of the run's"
    )
    decay_steps: NotNegative = Field(
        default=0.1,
        description="last optimizer steps, in which wsd falls; below 1: that share of the run's; 0: it never falls",
    )
    final_fraction: Fraction = Field(default=0.0, description="of the learning rate, at the last step")


WITH_ADAPTERS = ("Lora", "QLora")  # classes of distft.models.adapters


class Tuning(Part):
    """Which parameters are trained."""

    rank: Count = Field(default=16, description="of each adapter")
    alpha: Positive = Field(default=32.0, description="adapters are scaled by alpha / rank")
    dropout: Share = Field(default=0.0, description="of the adapters' input")
    target_modules: list[Any] | Literal["all-linear"] = Field(
        default="all-linear", description="linear layers with an adapter, by the last part of their names"
    )

    @property
    def has_adapters(self) -> bool:
        """Whether adapters alone are trained."""
        return str(self.target).rpartition(".")[2] in WITH_ADAPTERS

    @property
    def is_quantized(self) -> bool:
        """Whether the frozen linear layers are held in 4 bits."""
        return str(self.target).endswith(".QLora")


class Loss(Part):
    """What is minimised."""

    label_smoothing: Share = Field(
        default=0.0,
        description="cross_entropy: probability spread over the whole vocabulary, or over all classes; dpo, simpo: "
        "that a pair is labelled the wrong way round",
    )
    beta: Positive = Field(
        default=0.1,
        description="dpo, ipo, kto: of the reward log(p / p_reference), lower allows more distance from the base; "
        "simpo: of the reward, the mean log-probability of a token; orpo: weight of the odds ratio",
    )
    length_normalized: bool = Field(default=False, description="dpo: rewards per token of an answer")
    reference: Literal["auto", "adapter", "stored"] = Field(
        default="auto",
        description="where the log-probabilities of the frozen base come from. adapter: a forward without adapters; "
        "stored: computed once before training; auto: adapter with tuning=lora or qlora, else stored",
    )
    gamma: NotNegative = Field(default=1.0, description="simpo: margin between the rewards that a pair must exceed")
    desirable_weight: NotNegative = Field(default=1.0, description="kto: of answers with label true")
    undesirable_weight: NotNegative = Field(default=1.0, description="kto: of answers with label false")
    reference_point: Number = Field(
        default=0.0, description="kto: log(p / p_reference) in nats above which an answer counts as desirable"
    )
    center: NotNegative = Field(
        default=0.0, description="reward: weight of the squared sum of both rewards, which keeps their mean near zero"
    )
    margin: NotNegative = Field(default=0.0, description="reward: by which the chosen answer's reward must be higher")
    z_loss: NotNegative = Field(
        default=0.0, description="weight of log(sum of exp(logits))^2, which keeps logits near zero; training only"
    )
    class_weights: list[Any] | None = Field(
        default=None,
        description="of classes in the loss, a number each in the order of their names; null: all 1",
    )
    teacher: str | None = Field(
        default=None, description="distillation: folder or hub id of a model with the same tokenizer"
    )
    kl_weight: Fraction = Field(
        default=0.5, description="distillation: share of the divergence from the teacher; the rest is cross-entropy"
    )
    temperature: Positive = Field(default=1.0, description="distillation: by which both models' logits are divided")
    top_k: Count = Field(
        default=32, description="distillation: most probable tokens of the teacher that are stored per target"
    )
    delta: Positive = Field(default=1.0, description="of Huber's loss: the error at which it turns linear")
    positive_weight: Positive = Field(
        default=1.0, description="of bce: of classes that apply, over those that do not; for classes that rarely apply"
    )


class Strategy(Part):
    """How model, gradients and optimizer state are spread over the processes."""

    stage: Annotated[int, Field(ge=1, le=3)] = Field(default=0, description="of ZeRO")
    bucket_parameters: Count | None = Field(
        default=None, description="ZeRO: elements of one communication bucket; null: derived from the model"
    )
    persist_parameters: Index = Field(default=0, description="ZeRO-3: parameters up to this size stay whole")
    shard_size: Count | None = Field(
        default=None, description="hsdp: processes that hold one copy; null: those of a node"
    )
    layout: Literal["ddp", "fsdp", "hsdp"] = Field(default="ddp", description="of FSDP2: replicated, sharded, or both")
    offload: bool = Field(
        default=False, description="ZeRO: optimizer state, and at stage 3 parameters, stay in host memory"
    )
    overlap_communication: bool = Field(default=False, description="ZeRO: reduce gradients while backward computes")


LEAST_WARNING = 30  # seconds; SLURM looks at time limits about as often


class Launcher(Part):
    """Where the processes run."""

    model: str | None = Field(default=None, description="openai: as OpenAI names it, e.g. gpt-4o-mini-2024-07-18")
    learning_rate_multiplier: Positive | None = Field(
        default=None, description="openai: of the learning rate that OpenAI chooses; null: chosen by it"
    )
    suffix: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="openai: in the tuned model's name"
    )
    price: NotNegative | None = Field(
        default=None, description="openai: dollars per million trained tokens, for the cost of the run"
    )
    eval_rows: Index = Field(
        default=100, description="openai: held-out rows that the tuned model answers at the end; 0: none"
    )
    poll_seconds: Positive = Field(default=10, description="openai: between questions about the job")
    nodes: Count | Annotated[str, Field(pattern=r"^(?:[1-9]\d*-[1-9]\d*)$", examples=["2-4"])] = Field(
        default=1, description="machines; under SLURM FEWEST-MOST too: as many as are free"
    )
    processes_per_node: Count | Literal["auto"] = Field(default="auto", description="auto: one per accelerator, else 1")
    wait: bool = Field(default=True, description="false: return with the job's id")
    stage: Literal["none", "node_local"] = Field(
        default="none",
        description="node_local: one process of each node copies model and rows to the node's own disk first; copies "
        "are kept",
    )
    rendezvous: str | None = Field(
        default=None,
        description="HOST:PORT of the first machine, where the same command is typed on each of several; no scheduler",
    )
    grace_seconds: NotNegative = Field(default=300, description="from a request to stop to the end by force")
    jobs_at_once: Count | None = Field(
        default=1, description="runs of a sweep at a time; null: as many as a scheduler lets run, in a search 1"
    )
    profile: str | None = Field(
        default=None, description="a YAML file with what this site's jobs always need of these keys"
    )
    partition: str | None = Field(default=None, description="SLURM's; null: its default")
    account: str | None = Field(default=None, description="that the job is booked on")
    qos: str | None = Field(default=None, description="quality of service, as the site defines it")
    time: (
        Count | Annotated[str, Field(pattern=r"^(?:(\d+-)?\d+(:\d\d){0,2}|UNLIMITED)$", examples=["12:00:00"])] | None
    ) = Field(default=None, description="limit in minutes, or as D-HH:MM:SS; null: the partition's")
    memory: Index | Annotated[str, Field(pattern=r"^(?:\d+[KMGT]?)$", examples=["200G"])] | None = Field(
        default=None, description="of a node, in MiB without a unit; 0: all of it; null: the partition's default"
    )
    cpus_per_process: Count | None = Field(default=None, description="cores; null: each GPU's share of its node's")
    gpus_per_node: Index | Annotated[str, Field(pattern=r"^(?:\w+:\d+)$", examples=["a100:4"])] | None = Field(
        default=None, description="null: one for each process where the partition has GPUs"
    )
    constraint: str | None = Field(default=None, description="features that the nodes must have, e.g. h100&ib")
    exclude: list[Any] = Field(default=[], description="nodes that the job must not get")
    flags: dict[str, Any] = Field(  # of a program that is not distft's
        default={}, description="further options of sbatch, e.g. {reservation: course, exclusive: true}"
    )
    warning_seconds: Annotated[int, Field(ge=LEAST_WARNING)] = Field(
        default=120, description="before the time limit the run saves and is queued again"
    )
    max_timeouts: Index = Field(default=0, description="time limits after which it is queued again; preemptions always")
    environment: Literal["venv", "module", "container"] = Field(
        default="venv",
        description="what the nodes run in: the virtual environment of the launching Python, modules and it, or a "
        "container",
    )
    modules: list[Any] = Field(default=[], description="loaded in this order, with launcher.environment=module")
    container_image: str | None = Field(
        default=None, description="for pyxis/enroot, with launcher.environment=container"
    )
    container_mounts: list[Any] = Field(
        default=[], description="further folders that the container sees, SOURCE:TARGET"
    )
    fabric: str | None = Field(
        default=None, description="a profile of the network between nodes: a file in slurm/fabrics/"
    )
    hang_seconds: NotNegative | None = Field(
        default=None,
        description="without progress in a step, after which stacks are written and the run ends with code 124; null: "
        "10 median steps, at least 300; 0: never",
    )
    hang_seconds_outside: NotNegative = Field(default=1800, description="the same while it starts, saves or evaluates")
    restarts: Index = Field(
        default=0,
        description="from the last checkpoint after a rank has died or hung; three starts without a new checkpoint "
        "end it too",
    )
    preflight: bool = Field(
        default=False,
        description="before the run the nodes are measured, a minute at most; the job is queued again once without "
        "those that fall behind the others, or whose GPUs report errors",
    )
    stage_dir: str | None = Field(
        default=None, description="where to; null: $SLURM_TMPDIR, $TMPDIR or /tmp of the node"
    )


class Sweep(Part):
    """Many runs from one command line."""

    only_failed: bool = Field(default=False, description="with -m: run the failed jobs again and no others")
    fail_fast: bool = Field(
        default=False, description="with -m: the first job that fails ends the others, which save and stop"
    )
    trials: Count = Field(default=0, description="with -m: jobs of a search")
    space: list[str] = Field(
        default=[],
        description="of an experiment: what -m sweeps when no key is typed with several values, e.g. "
        "[optimizer.lr=1e-5,3e-5]",
    )
    seed: Index = Field(default=0, description="with -m: decides the points of a search")


class Wandb(Part):
    """Weights & Biases."""

    project: str = Field(default="distft", description="that the run is shown in")
    entity: str | None = Field(default=None, description="user or team; null: the account's default")
    mode: Literal["online", "offline"] = Field(
        default="online", description="offline: into the run folder, for `wandb sync`"
    )


class TensorBoard(Part):
    """TensorBoard event files in the run folder."""


class Trackio(Part):
    """Trackio, a local store that `trackio show` opens; extra trackio."""

    project: str = Field(default="distft", description="that `trackio show --project` opens")


class Prometheus(Part):
    """A text file for node_exporter's textfile collector."""

    folder: str | None = Field(default=None, description="the collector's folder; null: the run folder")
    every_seconds: NotNegative = Field(default=10, description="least time between two writes")


class Trackers(Group):
    """Where metrics go in addition to metrics.jsonl: the chosen trackers, each under its name."""

    model_config = ConfigDict(extra="allow")
    # those of one's own, by name
    __pydantic_extra__: dict[str, Part] = Field(init=False)  # pyright: ignore  # pydantic's way to type them

    wandb: Wandb = Wandb()
    tensorboard: TensorBoard = TensorBoard()
    trackio: Trackio = Trackio()
    prometheus: Prometheus = Prometheus()

    def entries(self) -> Iterator[tuple[str, Part]]:
        """Yields the name and the section of every chosen tracker."""
        yield from ((name, getattr(self, name)) for name in type(self).model_fields if name in self.model_fields_set)
        yield from (self.model_extra or {}).items()


# Keys of a launcher that other programs read: valid for every launcher, and not passed to its constructor.
SHARED_KEYS = (
    "wait", "grace_seconds", "processes_per_node", "stage", "stage_dir", "hang_seconds", "hang_seconds_outside",
    "restarts",
)  # fmt: skip
JOB_KEYS = {"distft.launchers.slurm.launcher.Slurm": ("profile", "max_timeouts", "preflight")}  # the same, of its jobs
TRACKER = "tracker"  # its sections, one for each tracker, have a `_target_`
TARGET_GROUPS = ("strategy", "optimizer", "schedule", "loss", "tuning", TRACKER, "launcher", "sweep")


def target_sections(trackers: Mapping[str, Any] | None) -> list[str]:
    """Returns the dotted names of the sections that have a `_target_`: `optimizer`, `tracker.wandb`.

    trackers: the section `tracker`.
    """
    named = [f"{TRACKER}.{name}" for name, section in (trackers or {}).items() if isinstance(section, Mapping)]
    return [*(group for group in TARGET_GROUPS if group != TRACKER), *named]


def read_elsewhere(launcher: str) -> tuple[str, ...]:
    """Returns the keys of a launcher's section that others read, by its `_target_`."""
    return (*SHARED_KEYS, *JOB_KEYS.get(launcher, ()))


def named_tracker(key: str, names: Collection[str]) -> str:
    """Returns `tracker.wandb.project` for `tracker.project` of the only one of `names`; others as they are."""
    rest = key.removeprefix(f"{TRACKER}.")
    if rest == key or len(names) != 1 or rest.partition(".")[0] in names:
        return key
    return f"{TRACKER}.{next(iter(names))}.{rest}"
