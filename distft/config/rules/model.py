"""Rules of the model and of its evaluation, benchmarks included."""

from importlib.util import find_spec

from distft.config.check import ready_tasks, wrong_benchmarks
from distft.config.errors import did_you_mean, nearest
from distft.config.rules.contract import Facts, rule
from distft.machines import num_accelerators
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
    ("tuning._target_",),
    "tuning=qlora without bitsandbytes",
    "its kernels quantize the frozen layers and multiply with them",
)
def quantized(facts: Facts) -> str | None:
    if not str(facts["tuning._target_"]).endswith(".QLora") or find_spec("bitsandbytes"):
        return None
    return "tuning=qlora: bitsandbytes is not installed. Try: pip install 'distft[qlora]'"


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


_BENCHMARKS = ("eval.benchmarks", "eval.benchmarks_every_steps", "eval.benchmarks_limit", "eval.benchmarks_path")


@rule(_BENCHMARKS, "other keys of benchmarks without eval.benchmarks", "nothing is measured")
def benchmarks_unused(facts: Facts) -> str | None:
    key = next((key for key in _BENCHMARKS[1:] if facts[key] is not None), None)
    if key is None or facts["eval.benchmarks"]:
        return None
    return f"{key}={facts[key]} has no effect with eval.benchmarks=[]. Try: eval.benchmarks=[{ready_tasks()[0]}]"


@rule(
    ("eval.benchmarks", "eval.benchmarks_path", "model.task"),
    "benchmarks that do not exist, without lm-eval, of a model that gives no text, or in a sweep",
    "they are measured when the training is done, where an error comes late",
)
def benchmarks_known(facts: Facts) -> str | None:
    names, task = facts["eval.benchmarks"], facts["model.task"]
    if names and facts.sweep:
        listed = ",".join(names)
        return f"eval.benchmarks=[{listed}]: a sweep measures none. Try: distft evaluate run=RUN tasks=[{listed}]"
    if names and load_task(task).model_class != "AutoModelForCausalLM":
        return (
            f"eval.benchmarks=[{','.join(names)}]: a model of model.task={task} gives no text. Try: eval.benchmarks=[]"
        )
    wrong = wrong_benchmarks(names, facts["eval.benchmarks_path"], "eval.benchmarks", "eval.benchmarks_path")
    return next(iter(wrong), None)


@rule(
    ("eval.benchmarks_every_steps", "checkpoint.every_steps", "checkpoint.keep_every"),
    "eval.benchmarks_every_steps with checkpoints that are not saved or do not stay",
    "a benchmark reads a checkpoint later, when others have followed it",
)
def benchmarks_kept(facts: Facts) -> str | None:
    every, saved, kept = (facts[key] for key in benchmarks_kept.keys)
    if every is None or not facts["eval.benchmarks"]:
        return None
    if saved is not None and kept is not None and every % saved == 0 and every % kept == 0:
        return None
    return (
        f"eval.benchmarks_every_steps={every}: these checkpoints must be saved and stay. Try: "
        f"checkpoint.every_steps={every} checkpoint.keep_every={every}"
    )
