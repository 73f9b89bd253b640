"""A sweep's own keys."""

from distft.config.rules.contract import Facts, rule

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
