"""Next-token prediction: chat, completion and continued pretraining."""

import math

from distft.tasks import Evaluated, Metrics, Sums, Task

_LARGEST_EXPONENT = 700.0  # exp of more overflows fp64


def metrics(sums: Sums, count: int) -> Metrics:
    found = {"accuracy": sums["correct"] / count}
    return found | {"kl": sums["kl"] / count} if "kl" in sums else found  # of rows that a teacher has read


def held_out(found: Evaluated) -> Metrics:
    return {"perplexity": math.exp(min(found.loss, _LARGEST_EXPONENT))}


TASK = Task(
    name="causal_lm",
    unit="token",
    losses=("cross_entropy", "distillation"),
    model_class="AutoModelForCausalLM",
    peft_type="CAUSAL_LM",
    formats=(),
    labels="none",
    metrics=metrics,
    held_out=held_out,
    gathers=False,
    metric_names=("loss", "perplexity", "accuracy"),
    further_metrics={"distillation": ("kl",)},
)
