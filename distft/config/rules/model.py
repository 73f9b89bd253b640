"""The model, its rows, and what is measured on them."""

from datetime import datetime

from distft.config.errors import did_you_mean, nearest
from distft.config.machines import num_accelerators
from distft.config.rules.contract import Facts, rule
from distft.tasks import load_task


@rule(
    ("model.tiny",),
    "model.tiny=true with model.path, model.revision or model.trust_remote_code",
    "a random instance has no files",
)
def tiny_and_path(facts: Facts) -> str | None:
    key = facts.gave("model.path", "model.revision", "model.trust_remote_code")
    if not facts["model.tiny"] or key is None:
        return None
    return f"{key}={facts[key]} has no effect with model.tiny=true, a random instance. Try: model.tiny=false"


@rule(
    ("model.tiny",),
    "a value under model.architecture or model.tiny_architecture without model.tiny=true",
    "the config.json of model.path decides",
)
def facts_unused(facts: Facts) -> str | None:
    key = facts.gave("model.architecture", "model.tiny_architecture")
    if facts["model.tiny"] or key is None:
        return None
    return f"{key}={facts[key]} has no effect: model.path says what the model is. Try: model.tiny=true"


@rule(
    ("model.attention", "train.precision"),
    "model.attention=flash_attention_2, flash_attention_3 or varlen in fp32; they or flex_attention, with "
    "launcher=local, without an accelerator",
    "the first three are for bf16 on CUDA and ROCm; flex_attention gives wrong numbers on some CPUs",
)
def flash(facts: Facts) -> str | None:
    attention, precision = facts["model.attention"], facts["train.precision"]
    elsewhere = facts.choices.get("launcher") != "local"  # whose machines this one may be nothing like
    if attention in ("flash_attention_2", "flash_attention_3", "varlen") and precision == "fp32":
        return f"model.attention={attention} computes in bf16 alone. Try: model.attention=sdpa"
    if attention in ("auto", "sdpa", "eager") or num_accelerators() or elsewhere:
        return None
    return f"model.attention={attention} needs a CUDA or ROCm device, and here is none. Try: model.attention=sdpa"


@rule(
    ("train.compile", "model.attention", "train.precision"),
    "train.compile=true on accelerators with model.attention=sdpa, or with auto in fp32, where it is that",
    "it has a call for each document, so every micro-batch would be another graph",
)
def compiled_sdpa(facts: Facts) -> str | None:
    here = facts.choices.get("launcher") == "local"  # else what the job asks for counts, not who submits it
    accelerators = num_accelerators() if here else facts["launcher"].get("gpus_per_node")
    if not facts["train.compile"] or not accelerators:
        return None
    if facts["model.attention"] == "auto" and facts["train.precision"] == "fp32":
        return (
            "train.compile=true: no attention kernel is compiled in fp32 on accelerators (train.precision=fp32). "
            "Try: train.precision=bf16"
        )
    if facts["model.attention"] != "sdpa":
        return None
    return "model.attention=sdpa is compiled on CPUs alone (train.compile=true). Try: model.attention=varlen"


@rule(
    ("model.kernels", "train.compile"),
    "model.kernels=liger with train.compile=true, or with launcher=local, without an accelerator",
    "the compiler fuses the same operations itself; Liger's kernels are Triton's, for accelerators",
)
def fused(facts: Facts) -> str | None:
    if facts["model.kernels"] != "liger":
        return None
    if facts["train.compile"]:
        return "model.kernels=liger has no use with train.compile=true, which fuses the same. Try: train.compile=false"
    if num_accelerators() or facts.choices.get("launcher") != "local":
        return None
    return "model.kernels=liger needs an accelerator, and here is none. Try: model.kernels=none"


@rule(
    ("data.format", "data.chat_template"),
    "data.format=messages with data.chat_template=none",
    "only a template says how turns are put together",
)
def template(facts: Facts) -> str | None:
    if facts["data.format"] not in ("messages", "sharegpt") or facts["data.chat_template"] != "none":
        return None
    return "data.chat_template=none cannot put messages together. Try: data.chat_template=auto"


@rule(
    ("data.seed_date",),
    "data.seed_date that no calendar has",
    "a chat template may print it",
)
def seed_date(facts: Facts) -> str | None:
    date = str(facts["data.seed_date"])
    try:
        datetime.strptime(date, "%Y-%m-%d")
    except ValueError:
        return f"data.seed_date={date} is no day of the calendar. Try: data.seed_date=2024-07-26"
    return None


@rule(
    ("data.eval", "data.overlap", "data.split_seed", "data.eval_split"),
    "data.split_seed with held-out rows of their own; data.overlap or data.eval_split with a held-out fraction",
    "the other way of holding out decides",
)
def overlap_unused(facts: Facts) -> str | None:
    own = isinstance(facts["data.eval"], str | list)
    if own and facts.gave("data.split_seed"):
        seed = facts["data.split_seed"]
        return f"data.split_seed={seed} has no effect: data.eval has rows of its own. Try: data.eval=0.05"
    if (
        not own
        and facts.gave("data.overlap")
        and not (facts["clean.leakage.enabled"] and (facts["clean.leakage.against"] or facts["data.eval"]))
    ):
        return f"data.overlap={facts['data.overlap']} has no effect: held-out rows never overlap. Try: data.eval=FILE"
    if not own and facts["data.eval_split"] is not None:
        split = facts["data.eval_split"]
        return f"data.eval_split={split} has no effect: it is of an own data.eval. Try: data.eval=FILE"
    return None


@rule(
    ("data.eval",),
    "settings under eval with data.eval=null",
    "there are no rows to evaluate on",
)
def held_out_unused(facts: Facts) -> str | None:
    keys = ("every_steps", "micro_batch_size", "samples", "train_rows", "metric", "goal", "early_stopping")
    key = facts.gave(*(f"eval.{key}" for key in keys))
    if facts["data.eval"] is not None or key is None:
        return None
    return f"{key}={facts[key]} has no effect without held-out rows (data.eval=null). Try: data.eval=0.05"


@rule(
    ("eval.early_stopping.patience", "eval.every_steps"),
    "early stopping with eval.every_steps=null",
    "it counts evaluations while training",
)
def stopping(facts: Facts) -> str | None:
    patience = facts["eval.early_stopping.patience"]
    if patience is None or facts["eval.every_steps"]:
        return None
    return (
        f"eval.early_stopping.patience={patience} counts evaluations, and eval.every_steps=null has none while "
        "training. Try: eval.every_steps=10"
    )


@rule(
    ("eval.every_steps", "eval.at_ends", "eval.early_stopping.patience", "train.max_steps"),
    "early stopping, or eval.at_ends=false, with eval.every_steps beyond the run",
    "the first evaluation would come after the end",
)
def evaluated_too_late(facts: Facts) -> str | None:
    every, steps = facts["eval.every_steps"], facts["train.max_steps"]
    patience = facts["eval.early_stopping.patience"]
    if not every or not steps or facts["data.eval"] is None or facts.choices.get("eval") == "none":
        return None
    if patience is not None and every >= steps:
        often = max(1, steps // (patience + 1))
        instead = f"eval.every_steps={often}" if often < steps else "eval.early_stopping.patience=null"
        return (
            f"eval.early_stopping.patience={patience} counts evaluations while training, and eval.every_steps={every} "
            f"has none before the last of the run's {steps} steps. Try: {instead}"
        )
    if not facts["eval.at_ends"] and every > steps:
        return (
            f"eval.every_steps={every} with eval.at_ends=false never evaluates in the run's {steps} steps. "
            "Try: eval.at_ends=true"
        )
    return None


@rule(
    ("checkpoint.save_best", "data.eval", "eval.at_ends", "eval.every_steps"),
    "checkpoint.save_best=true without evaluations",
    "the best is that of the best held-out metric",
)
def best_unused(facts: Facts) -> str | None:
    if not facts["checkpoint.save_best"] or not facts.gave("checkpoint.save_best"):
        return None
    if facts["data.eval"] is not None and (facts["eval.at_ends"] or facts["eval.every_steps"]):
        return None
    missing = "data.eval=0.05" if facts["data.eval"] is None else "eval.every_steps=10"
    return f"checkpoint.save_best=true has no effect without evaluations. Try: {missing}"


@rule(
    ("eval.metric", "model.task"),
    "eval.metric that the task does not have",
    "every evaluation must have it",
)
def metric_of_task(facts: Facts) -> str | None:
    metric, task = str(facts["eval.metric"]), str(facts["model.task"])
    allowed = load_task(task).metrics_with(facts.choices.get("loss"))
    if metric in allowed:
        return None
    meant = did_you_mean(nearest(metric, allowed))
    return f"eval.metric={metric}: not a metric of model.task={task}. Allowed: {', '.join(allowed)}.{meant}"


@rule(
    ("eval.early_stopping.min_delta", "eval.early_stopping.patience"),
    "eval.early_stopping.min_delta without patience",
    "nothing asks for it",
)
def min_delta_unused(facts: Facts) -> str | None:
    delta = facts["eval.early_stopping.min_delta"]
    if not delta or facts["eval.early_stopping.patience"]:
        return None
    return f"eval.early_stopping.min_delta={delta} has no effect without patience. Try: eval.early_stopping.patience=3"
