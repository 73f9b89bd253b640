"""Preference pairs: how their rows are cut and trained, and where their reference comes from."""

from distft.config.rules.contract import Facts, rule
from distft.tasks import load_task
from distft.tasks.preference import formats_of


def _is_of_pairs(facts: Facts) -> bool:
    return load_task(facts["model.task"]).unit == "pair"


@rule(
    ("data.truncate", "model.task"),
    "data.truncate=split with model.task=preference or reward_model",
    "a piece of a pair has no answer to compare",
)
def split_pairs(facts: Facts) -> str | None:
    if facts["data.truncate"] != "split" or not _is_of_pairs(facts):
        return None
    return f"data.truncate=split: a pair cannot be split (model.task={facts['model.task']}). Try: data.truncate=cut"


@rule(
    ("data.train_on", "model.task"),
    "data.train_on=all or last with model.task=preference or reward_model",
    "the answers after the common prompt are compared",
)
def trained_of_pairs(facts: Facts) -> str | None:
    if facts["data.train_on"] == "assistant" or not _is_of_pairs(facts):
        return None
    return (
        f"data.train_on={facts['data.train_on']} has no effect with model.task={facts['model.task']}, which compares "
        "the answers after the common prompt. Try: data.train_on=assistant"
    )


@rule(
    ("data.format", "loss._target_", "model.task"),
    "data.format=kto without loss=kto, or loss=kto with data.format=preference",
    "one has single answers with a label, the other compares pairs",
)
def rows_of_loss(facts: Facts) -> str | None:
    form, wanted = facts["data.format"], formats_of(facts["loss._target_"])
    if facts["model.task"] != "preference" or form not in ("kto", "preference") or form in wanted:
        return None
    loss = "kto" if form == "kto" else "dpo"
    return f"data.format={form} is not for loss={facts.choices.get('loss')}. Try: loss={loss}, or data={wanted[0]}"


@rule(
    ("loss.reference", "tuning._target_"),
    "loss.reference=adapter without adapters",
    "the frozen base is the model with its adapters off",
)
def adapter_as_reference(facts: Facts) -> str | None:
    if facts["loss.reference"] != "adapter" or str(facts["tuning._target_"]).endswith(".Lora"):
        return None
    return (
        f"loss.reference=adapter needs adapters to switch off, and tuning={facts.choices.get('tuning')} has none. "
        "Try: loss.reference=stored"
    )
