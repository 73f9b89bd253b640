"""The run as a whole: its name and its end."""

from distft.config.rules.contract import Facts, rule


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
