"""What a model that OpenAI trains does not take: everything about machines, weights and the step."""

from distft.config.key import covers
from distft.config.rules.contract import Facts, rule

TAKEN = (
    "name", "runs_dir", "cache_dir", "seed", "trust", "tracker", "launcher", "train.epochs", "train.global_batch_size",
    "data.train", "data.eval", "data.split", "data.eval_split", "data.subset", "data.revision", "data.split_seed",
    "data.format", "data.fields", "data.ignore_fields", "data.prompt_template", "data.max_bad_fraction",
)  # fmt: skip
_OWN = ("model", "learning_rate_multiplier", "suffix", "price", "eval_rows", "poll_seconds", "wait", "grace_seconds")
_WORDS = {  # group -> its default, which alone leaves open what OpenAI decides
    "model": "smollm2_135m",
    "clean": "none",
    "strategy": "ddp",
    "optimizer": "adamw",
    "schedule": "cosine",
    "loss": "cross_entropy",
    "tuning": "full",
    "eval": "held_out",
}


@rule(
    ("launcher._target_",),
    "launcher=openai with settings of the model, the strategy, the optimizer or of how a step is computed",
    "OpenAI decides them",
)
def hosted_unused(facts: Facts) -> str | None:
    if facts.choices.get("launcher") != "openai":
        return None
    words = [f"{group}={facts.choices[group]}" for group, word in _WORDS.items() if facts.choices.get(group) != word]
    keys = [key for key in sorted(facts.given) if key != "launcher._target_" and not _is_taken(key)]
    if not words and not keys:
        return None
    asked = ", ".join([*words, *(f"{key}={facts[key]}" for key in keys)])
    plural = "have" if len(words) + len(keys) > 1 else "has"
    return f"{asked} {plural} no effect with launcher=openai: OpenAI decides it. Try: launcher=openai without"


def _is_taken(key: str) -> bool:
    if covers(["launcher"], key):
        return key.partition(".")[2] in _OWN
    return covers(TAKEN, key)


@rule(("launcher._target_",), "-m with launcher=openai", "each job costs money, and is launched by itself")
def hosted_sweep(facts: Facts) -> str | None:
    if facts.choices.get("launcher") != "openai" or not facts.sweep:
        return None
    return "launcher=openai trains one run at a time, and -m makes a sweep. Try: a launch for each"


@rule(
    ("train.epochs", "launcher._target_"),
    "launcher=openai with a part of an epoch",
    "OpenAI takes whole ones",
)
def hosted_epochs(facts: Facts) -> str | None:
    epochs = facts["train.epochs"]
    if facts.choices.get("launcher") != "openai" or epochs is None or epochs == int(epochs) > 0:
        return None
    return f"train.epochs={epochs}: OpenAI trains whole epochs. Try: train.epochs={max(1, round(epochs))}"
