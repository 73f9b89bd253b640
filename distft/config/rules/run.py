"""Rules of the run as a whole: its name, its end, what it resumes from, and a sweep's own keys."""

import os

from distft.config.key import covers, leaves
from distft.config.nearest import did_you_mean, nearest_key
from distft.config.rules.contract import Facts, rule

MOST_BYTES = 200  # of a name; a file system takes 255, and a file next to it gets some more
_HAS_ADAPTERS = {
    "distft.models.adapters.Full": False,
    "distft.models.adapters.Lora": True,
}  # of others nobody knows here


@rule(
    ("name",),
    "a name that is no single folder's, or longer than 200 bytes",
    "runs_dir/name is the run's folder; a leading dot or dash, / and control characters are kept out",
)
def name(facts: Facts) -> str | None:
    asked = facts["name"]
    if asked is None:
        return None
    fine = "".join(letter if letter.isprintable() and letter not in "/\\" else "-" for letter in asked.strip(" ."))
    fine = fine.lstrip("-.") or "first"
    if len(os.fsencode(asked)) > MOST_BYTES:
        return f"name={asked[:40]}... has {len(os.fsencode(asked))} bytes, of {MOST_BYTES} at most. Try: a shorter name"
    if fine == asked:
        return None
    printable = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in asked)
    return f"name={printable} is not the name of one folder. Try: name={fine}"


@rule(("train.max_steps", "train.epochs"), "neither steps nor epochs", "the run would not end")
def no_end(facts: Facts) -> str | None:
    if facts["train.max_steps"] or facts["train.epochs"]:
        return None
    return "train.max_steps=null and train.epochs=null: the run has no end. Try: train.epochs=1"


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


@rule(
    ("export.format", "tuning._target_"),
    "export.format=merged or peft without adapters, and huggingface with them",
    "merged and peft are the two ways to write adapters",
)
def export_format(facts: Facts) -> str | None:
    asked, target = facts["export.format"], str(facts["tuning._target_"])
    if asked == "auto" or target not in _HAS_ADAPTERS:
        return None
    if _HAS_ADAPTERS[target] and asked == "huggingface":
        return "export.format=huggingface: the run trains adapters. Try: export.format=merged, or peft"
    if not _HAS_ADAPTERS[target] and asked in ("merged", "peft"):
        return f"export.format={asked}: the run trains no adapters. Try: export.format=huggingface"
    return None


@rule(("export.enabled",), "how to export with export.enabled=false", "nothing is exported")
def export_unused(facts: Facts) -> str | None:
    given = facts.gave("export.at", "export.dtype", "export.format")
    if facts["export.enabled"] or given is None or facts.sweep:  # a sweep's jobs are exported after it, by its word
        return None
    return f"{given}={facts[given]} has no effect with export=false. Try: export=true"


_KEYS = ("sweep.only_failed", "sweep.fail_fast", "sweep.trials", "sweep.seed")


@rule(_KEYS, "keys of a sweep without -m", "one run is launched")
def sweep_unused(facts: Facts) -> str | None:
    key, word = facts.gave("sweep"), facts.choices.get("sweep", "grid")
    if facts.sweep or (key is None and word == "grid"):
        return None
    asked = f"{key}={facts[key]}" if key else f"sweep={word}"
    return f"{asked} has no effect without -m, which makes a sweep. Try: -m, with KEY=A,B"


@rule(("launcher.jobs_at_once",), "launcher.jobs_at_once without -m", "one run is launched")
def jobs_at_once_unused(facts: Facts) -> str | None:
    if facts.sweep or facts.gave("launcher.jobs_at_once") is None or facts["launcher.jobs_at_once"] is None:
        return None
    asked = facts["launcher.jobs_at_once"]
    return f"launcher.jobs_at_once={asked} has no effect without -m, which makes a sweep. Try: -m, with KEY=A,B"


@rule(
    ("sweep.trials", "data.eval", "eval.at_ends", "eval.every_steps"),
    "a search without a held-out loss",
    "it looks for the lowest",
)
def objective(facts: Facts) -> str | None:
    if not facts.sweep or not facts["sweep.trials"]:
        return None
    if facts["data.eval"] is None:
        return f"data.eval=null: sweep={facts.choices.get('sweep')} looks for the lowest held-out loss. Try: 0.05"
    if not facts["eval.at_ends"] and facts["eval.every_steps"] is None:
        return (
            f"eval.at_ends=false and eval.every_steps=null: sweep={facts.choices.get('sweep')} looks for the lowest "
            "held-out loss. Try: eval.at_ends=true"
        )
    return None
