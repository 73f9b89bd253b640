"""Preference: pairs of a chosen and a rejected answer, or answers that are desirable or not (loss=kto)."""

from distft.tasks import Evaluated, Metrics, Sums, Task

KTO = "distft.losses.kto.KTO"  # the loss of labelled answers; all others compare pairs
PAIR_METRICS = ("preference_accuracy", "margin", "reward_chosen", "reward_rejected")


def formats_of(loss: str | None) -> tuple[str, ...]:
    """Returns the formats of data.format whose rows a loss reads. loss: its `_target_`."""
    return ("kto",) if loss == KTO else ("preference",)


def of_pairs(sums: Sums, count: int) -> Metrics:
    """Returns the means over pairs; of labelled answers the mean rewards of both kinds, each over its own number."""
    if "desirable" not in sums:
        return {name: sums[name] / count for name in PAIR_METRICS}
    desirable, others = sums["desirable"], count - sums["desirable"]
    chosen = sums["reward_chosen"] / desirable if desirable else float("nan")
    rejected = sums["reward_rejected"] / others if others else float("nan")
    return {
        "preference_accuracy": sums["preference_accuracy"] / count,
        "margin": chosen - rejected,
        "reward_chosen": chosen,
        "reward_rejected": rejected,
    }


def no_more(found: Evaluated) -> Metrics:
    """Returns nothing: all metrics are sums."""
    return {}


TASK = Task(
    name="preference",
    unit="pair",
    losses=("dpo", "ipo", "orpo", "simpo", "kto"),
    model_class="AutoModelForCausalLM",
    peft_type="CAUSAL_LM",
    formats=("preference", "kto"),
    labels="none",
    metrics=of_pairs,
    held_out=no_more,
    gathers=False,
    metric_names=("loss", *PAIR_METRICS),
)
