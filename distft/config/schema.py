"""Every key a user can set that is no keyword of a `_target_`, and the ranges of those keywords that have one.

Trap: bool is an int to Python, and an int is a fine float to a user; `Key.problem` keeps these apart.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NULL = type(None)
_FORMATS = sorted(file.stem for file in (Path(__file__).parents[1] / "data" / "formats").glob("[!_]*.py"))
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    dict: "a mapping",
    NULL: "null",
}


@dataclass(frozen=True)
class Key:
    """One key: its types, its range and what it does in a line."""

    path: str
    types: tuple[type, ...]
    help: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()  # the words allowed when the value is text
    pattern: str = ""  # instead: what text must match as a whole
    example: str = ""  # of such a text

    def rule(self) -> str:
        """Returns the rule in words: `a whole number of at least 1, or null`."""
        own_words = (*self.choices, *([self.example] if self.example else []))
        kinds = [kind for kind in self.types if kind is not NULL and not (kind is str and own_words)]
        words = [_WORDS[kind] + (self._bounds() if kind in (int, float) else "") for kind in kinds]
        words += own_words
        text = " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
        return text + (", or null" if NULL in self.types else "")

    def _bounds(self) -> str:
        bounds = [
            ("of at least", self.at_least),
            ("above", self.above),
            ("of at most", self.at_most),
            ("below", self.below),
        ]
        return " and".join(f" {word} {bound:g}" for word, bound in bounds if bound is not None)

    def fits_type(self, value: Any) -> bool:
        if isinstance(value, bool):
            return bool in self.types
        return isinstance(value, self.types) or (isinstance(value, int) and float in self.types)

    def fits(self, value: Any) -> bool:
        """Tells whether `value` has one of the types, and a number is in the range, and text is one of the words."""
        if not self.fits_type(value):
            return False
        if isinstance(value, str):
            return (
                value in self.choices if self.choices else re.fullmatch(self.pattern or ".*", value, re.S) is not None
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )


def _optional(*types: type) -> tuple[type, ...]:
    return (*types, NULL)


KEYS = (
    Key("name", _optional(str), "name of the run folder; null: <model>-<data>-<timestamp>"),
    Key("runs_dir", (str,), "folder of the run folders"),
    Key("cache_dir", (str,), "prepared data and fetched models; on a shared disk under SLURM"),
    Key("seed", (int,), "decides data order, dropout and new parameters", at_least=0),
    Key("export", (bool,), "write final/, a Hugging Face folder, at the end; a sweep does it for its best run alone"),
    Key("trust", (list,), "further prefixes that a _target_ may start with, e.g. [mylab.]"),
    Key("model.path", (str,), "folder or hub id of the model to start from"),
    Key("model.revision", _optional(str), "commit, tag or branch of a hub id; null: the newest"),
    Key("model.task", (str,), "what the model is trained to do", choices=("causal_lm",)),
    Key(
        "model.attention", (str,), "attention kernel", choices=("sdpa", "eager", "flash_attention_2", "flex_attention")
    ),
    Key("model.tokenizer", _optional(str), "folder or hub id of another tokenizer; null: the model's own"),
    Key("model.trust_remote_code", (bool,), "lets code out of the model's folder run in this process"),
    Key("model.tiny", (bool,), "a random instance of architecture | tiny_architecture with a byte tokenizer"),
    Key("model.architecture", (dict,), "the facts of the real model's config.json"),
    Key("model.tiny_architecture", (dict,), "what model.tiny=true changes in them"),
    Key("data.train", (str, list), "training rows: file, list of files, folder or hub id"),
    Key(
        "data.eval", _optional(str, list, float), "held-out rows: the same, or a fraction to hold out", above=0, below=1
    ),
    Key("data.split", _optional(str), "split of a hub id or folder; null: train"),
    Key("data.eval_split", _optional(str), "the same for data.eval; null: validation, or test in a folder without"),
    Key("data.subset", _optional(str), "configuration of a hub id"),
    Key("data.revision", _optional(str), "commit, tag or branch of a hub id; null: the newest"),
    Key("data.split_seed", (int,), "decides which rows a fraction holds out", at_least=0),
    Key(
        "data.overlap",
        (str,),
        "what to do with training rows that are in data.eval too",
        choices=("warn", "drop", "stop"),
    ),
    Key("data.format", (str,), "what a row is; auto: told from its fields", choices=("auto", *_FORMATS)),
    Key("data.fields", (dict,), "the names your rows use, e.g. {prompt: question}"),
    Key("data.max_length", (int,), "tokens of a row; longer ones are cut and counted", at_least=2),
    Key("data.chat_template", (str,), "auto: the model's own; none: plain text; or a .jinja file"),
    Key("data.packing", (bool,), "rows of a step share their forward passes"),
    Key("data.shards", _optional(list), "numbers of the prepared shards to train on; null: all"),
    Key(
        "data.max_bad_fraction",
        (float,),
        "bad rows above this fraction stop the run before it starts",
        at_least=0,
        at_most=1,
    ),
    Key(
        "data.max_truncated_fraction",
        (float,),
        "cut rows above this fraction stop the run before it starts",
        at_least=0,
        at_most=1,
    ),
    Key(
        "data.max_untrained_fraction",
        (float,),
        "rows without a token to train on, which are left out; above this fraction they stop the run",
        at_least=0,
        at_most=1,
    ),
    Key("optimizer.lr", (float,), "highest learning rate", above=0, at_most=1000),
    Key("optimizer.weight_decay", (float,), "decoupled or L2, as the optimizer defines it", at_least=0),
    Key("optimizer.eps", (float,), "keeps the division by the second moment finite", above=0),
    Key("optimizer.momentum", (float,), "of SGD", at_least=0, below=1),
    Key("schedule.warmup_steps", (int,), "optimizer steps until the learning rate is reached", at_least=0),
    Key("schedule.decay_steps", (int,), "last optimizer steps, in which wsd falls", at_least=0),
    Key("schedule.final_fraction", (float,), "of the learning rate, at the last step", at_least=0, at_most=1),
    Key("tuning.rank", (int,), "of each adapter", at_least=1),
    Key("tuning.alpha", (float,), "adapters are scaled by alpha / rank", above=0),
    Key("tuning.dropout", (float,), "of the adapters' input", at_least=0, below=1),
    Key(
        "tuning.target_modules",
        (list, str),
        "linear layers with an adapter, by the last part of their names",
        choices=("all-linear",),
    ),
    Key("loss.label_smoothing", (float,), "probability spread over the whole vocabulary", at_least=0, below=1),
    Key("strategy.stage", (int,), "of ZeRO", at_least=1, at_most=3),
    Key(
        "strategy.bucket_parameters",
        _optional(int),
        "ZeRO: communicated at once; null: told from the model",
        at_least=1,
    ),
    Key("strategy.persist_parameters", (int,), "ZeRO-3: parameters up to this size stay whole", at_least=0),
    Key("strategy.shard_size", _optional(int), "hsdp: processes that hold one copy; null: those of a node", at_least=1),
    Key("train.max_steps", _optional(int), "optimizer steps; with epochs the first reached ends the run", at_least=1),
    Key("train.epochs", _optional(float), "passes over the training rows", above=0),
    Key("train.global_batch_size", _optional(int), "rows per optimizer step", at_least=1),
    Key(
        "train.global_batch_tokens", _optional(int), "instead: rows in order up to so many tokens per step", at_least=1
    ),
    Key("train.micro_batch_size", (int,), "rows per forward", at_least=1),
    Key("train.micro_batch_tokens", _optional(int), "tokens per forward, with data.packing", at_least=1),
    Key("train.max_grad_norm", _optional(float), "gradient norm above which it is scaled down; null: never", above=0),
    Key("train.precision", (str,), "of compute; weights and moments stay fp32", choices=("auto", "fp32", "bf16")),
    Key("train.activation_checkpointing", (bool,), "compute activations again in backward instead of keeping them"),
    Key("train.deterministic", (bool,), "every switch for the same bits on the same machine, at a cost in speed"),
    Key("eval.at_ends", (bool,), "evaluate before the first step and after the last"),
    Key("eval.every_steps", _optional(int), "optimizer steps between evaluations; null: none between", at_least=1),
    Key(
        "eval.micro_batch_size",
        _optional(int),
        "rows per forward in evaluation; null: train.micro_batch_size",
        at_least=1,
    ),
    Key(
        "eval.early_stopping.patience",
        _optional(int),
        "evaluations without a better loss that end the run; null: never",
        at_least=1,
    ),
    Key("eval.early_stopping.min_delta", (float,), "how much lower a better loss is", at_least=0),
    Key(
        "checkpoint.every_steps",
        _optional(int),
        "optimizer steps between checkpoints; null: only at the end",
        at_least=1,
    ),
    Key("checkpoint.keep", (int,), "newest checkpoints that stay", at_least=1),
    Key("checkpoint.keep_every", _optional(int), "checkpoints at multiples of so many steps stay too", at_least=1),
    Key("checkpoint.background", (bool,), "copy the state to host memory and write it while training goes on"),
    Key(
        "checkpoint.on_failure",
        (str,),
        "when a checkpoint cannot be written; the last one must be",
        choices=("continue", "stop"),
    ),
    Key("checkpoint.resume", (str,), "auto: the run's own newest; never; or the path of a checkpoint"),
    Key(
        "checkpoint.allow_change",
        (list,),
        "keys and groups that change what the run learns, with whose new values it may go on, e.g. [optimizer.lr]",
    ),
    Key(
        "launcher.nodes",
        (int, str),
        "machines; under SLURM FEWEST-MOST too: as many as are free",
        at_least=1,
        pattern=r"[1-9]\d*-[1-9]\d*",
        example="2-4",
    ),
    Key("launcher.processes_per_node", (int, str), "auto: one per accelerator, else 1", at_least=1, choices=("auto",)),
    Key("launcher.wait", (bool,), "false: return with the job's id"),
    Key(
        "launcher.stage",
        (str,),
        "node_local: one process of each node copies model and rows to the node's own disk first; copies are kept",
        choices=("none", "node_local"),
    ),
    Key(
        "launcher.rendezvous",
        _optional(str),
        "HOST:PORT of the first machine, where the same command is typed on each of several; no scheduler",
    ),
    Key("launcher.grace_seconds", (float,), "from a request to stop to the end by force", at_least=0),
    Key(
        "launcher.jobs_at_once",
        _optional(int),
        "runs of a sweep at a time; null: as many as a scheduler lets run, in a search 1",
        at_least=1,
    ),
    Key("launcher.profile", _optional(str), "a YAML file with what this site's jobs always need of these keys"),
    Key("launcher.partition", _optional(str), "SLURM's; null: its default"),
    Key("launcher.account", _optional(str), "that the job is booked on"),
    Key("launcher.qos", _optional(str), "quality of service, as the site defines it"),
    Key(
        "launcher.time",
        _optional(int, str),
        "limit in minutes, or as D-HH:MM:SS; null: the partition's",
        at_least=1,
        pattern=r"(\d+-)?\d+(:\d\d){0,2}|UNLIMITED",
        example="12:00:00",
    ),
    Key(
        "launcher.memory",
        _optional(int, str),
        "of a node, in MiB without a unit; 0: all of it; null: the partition's default",
        at_least=0,
        pattern=r"\d+[KMGT]?",
        example="200G",
    ),
    Key("launcher.cpus_per_process", _optional(int), "cores; null: each GPU's share of its node's", at_least=1),
    Key(
        "launcher.gpus_per_node",
        _optional(int, str),
        "null: one for each process where the partition has GPUs",
        at_least=0,
        pattern=r"\w+:\d+",
        example="a100:4",
    ),
    Key("launcher.constraint", _optional(str), "features that the nodes must have, e.g. h100&ib"),
    Key("launcher.exclude", (list,), "nodes that the job must not get"),
    Key("launcher.flags", (dict,), "further options of sbatch, e.g. {reservation: course, exclusive: true}"),
    Key("launcher.warning_seconds", (int,), "before the time limit the run saves and is queued again", at_least=30),
    Key("launcher.max_timeouts", (int,), "time limits after which it is queued again; preemptions always", at_least=0),
    Key(
        "launcher.environment",
        (str,),
        "what the nodes run in: the virtual environment of the launching Python, modules and it, or a container",
        choices=("venv", "module", "container"),
    ),
    Key("launcher.modules", (list,), "loaded in this order, with launcher.environment=module"),
    Key("launcher.container_image", _optional(str), "for pyxis/enroot, with launcher.environment=container"),
    Key("launcher.container_mounts", (list,), "further folders that the container sees, SOURCE:TARGET"),
    Key("launcher.fabric", _optional(str), "a profile of the network between nodes: a file in slurm/fabrics/"),
    Key(
        "launcher.hang_seconds",
        _optional(float),
        "without progress in a step, after which stacks are written and the run ends with code 124; null: 10 median "
        "steps, at least 300; 0: never",
        at_least=0,
    ),
    Key("launcher.hang_seconds_outside", (float,), "the same while it starts, saves or evaluates", at_least=0),
    Key(
        "launcher.restarts",
        (int,),
        "from the last checkpoint after a rank has died or hung; three starts without a new checkpoint end it too",
        at_least=0,
    ),
    Key("launcher.stage_dir", _optional(str), "where to; null: $SLURM_TMPDIR, $TMPDIR or /tmp of the node"),
    Key("sweep.only_failed", (bool,), "with -m: run the failed jobs again and no others"),
    Key("sweep.fail_fast", (bool,), "with -m: the first job that fails ends the others, which save and stop"),
    Key("sweep.trials", (int,), "with -m: jobs of a search", at_least=1),
    Key("sweep.seed", (int,), "with -m: decides the points of a search", at_least=0),
)
BY_PATH = {key.path: key for key in KEYS}
TARGET_GROUPS = ("strategy", "optimizer", "schedule", "loss", "tuning", "tracker", "launcher", "sweep")
