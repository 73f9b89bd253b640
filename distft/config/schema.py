"""Every key a user can set that is no keyword of a `_target_`, and the ranges of those keywords that have one."""

from pathlib import Path

from distft.config.key import NULL, Key
from distft.config.key import optional as _optional
from distft.config.launcher_keys import LAUNCHER_KEYS

__all__ = ["BY_PATH", "KEYS", "NULL", "TARGET_GROUPS", "Key"]

_FORMATS = sorted(file.stem for file in (Path(__file__).parents[1] / "data" / "formats").glob("[!_]*.py"))

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
    *LAUNCHER_KEYS,
    Key("sweep.only_failed", (bool,), "with -m: run the failed jobs again and no others"),
    Key("sweep.fail_fast", (bool,), "with -m: the first job that fails ends the others, which save and stop"),
    Key("sweep.trials", (int,), "with -m: jobs of a search", at_least=1),
    Key("sweep.seed", (int,), "with -m: decides the points of a search", at_least=0),
)
BY_PATH = {key.path: key for key in KEYS}
TARGET_GROUPS = ("strategy", "optimizer", "schedule", "loss", "tuning", "tracker", "launcher", "sweep")
