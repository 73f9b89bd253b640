"""Reward model: one output per document, trained so that the chosen answer of a pair has the higher one."""

from distft.tasks import Task
from distft.tasks.preference import PAIR_METRICS, no_more, of_pairs

TASK = Task(
    name="reward_model",
    unit="pair",
    losses=("reward",),
    model_class="AutoModelForSequenceClassification",
    peft_type="SEQ_CLS",
    formats=("preference",),
    labels="none",
    metrics=of_pairs,
    held_out=no_more,
    gathers=False,
    metric_names=("loss", *PAIR_METRICS),
)
