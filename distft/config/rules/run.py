"""The run as a whole: its name, its end, and with what it may go on."""

from distft.config.nearest import did_you_mean, nearest_key
from distft.config.rules.contract import Facts, rule
from distft.config.tree import covers, leaves


@rule(
    ("name",),
    "a name that is no single folder's",
    "runs_dir/name is the run's folder; a leading dot or dash, / and control characters are kept out",
)
def name(facts: Facts) -> str | None:
    asked = facts["name"]
    if asked is None:
        return None
    fine = "".join(letter if letter.isprintable() and letter not in "/\\" else "-" for letter in asked.strip(" ."))
    fine = fine.lstrip("-.") or "first"
    if fine == asked:
        return None
    return f"name={asked} is not the name of one folder. Nearest: name={fine}"


@rule(("train.max_steps", "train.epochs"), "neither steps nor epochs", "the run would not end")
def no_end(facts: Facts) -> str | None:
    if facts["train.max_steps"] or facts["train.epochs"]:
        return None
    return "train.max_steps=null and train.epochs=null: the run has no end. Nearest: train.epochs=1"


@rule(
    ("checkpoint.every_steps", "checkpoint.every_minutes"),
    "neither steps nor minutes between checkpoints",
    "whatever ends the run would take all of it",
)
def no_saves(facts: Facts) -> str | None:
    if facts["checkpoint.every_steps"] or facts["checkpoint.every_minutes"]:
        return None
    return (
        "checkpoint.every_steps=null and checkpoint.every_minutes=null: a crash would lose the whole run. "
        "Try: checkpoint.every_minutes=15"
    )


@rule(("checkpoint.allow_change",), "a change of a key that there is none of", "it would allow nothing")
def allowed_change(facts: Facts) -> str | None:
    keys = [key for key, _ in leaves(facts.values)]
    for asked in map(str, facts["checkpoint.allow_change"]):
        if not any(covers([asked], key) for key in keys):
            meant = did_you_mean(nearest_key(asked, keys))
            return f"checkpoint.allow_change=[{asked}] is neither a key nor a group of keys.{meant}"
    return None
