"""Rules of cleaning: options of a rule that is off, and thresholds that contradict each other."""

from distft.config.key import shown
from distft.config.rules.contract import Facts, rule
from distft.tasks import load_task, task_names


@rule(("clean",), "options of a cleaning rule that is off", "the rows are not looked at by it")
def clean_unused(facts: Facts) -> str | None:
    for key in sorted(facts.given):
        parts = key.split(".")
        if parts[0] != "clean" or len(parts) != 3 or parts[2] == "enabled" or parts[1] == "groups":
            continue
        section = f"{parts[0]}.{parts[1]}"
        if not facts[f"{section}.enabled"]:
            return f"{key}={shown(facts[key])} has no effect with {section}.enabled=false. Try: {section}=true"
    return None


@rule(
    ("clean.length.min_words", "clean.length.max_words", "clean.quality.min_words", "clean.quality.max_words"),
    "a least number of words above the most",
    "no row would be left",
)
def clean_words(facts: Facts) -> str | None:
    for section in ("clean.length", "clean.quality"):
        least, most = facts[f"{section}.min_words"], facts[f"{section}.max_words"]
        if most is not None and least > most:
            return f"{section}.min_words={least} is above {section}.max_words={most}. Try: {section}.min_words={most}"
    return None


@rule(
    ("clean.leakage.enabled", "clean.leakage.against", "data.eval"),
    "clean.leakage, set alone, without rows to look for",
    "it compares with data.eval and clean.leakage.against",
)
def leakage_unused(facts: Facts) -> str | None:
    if not facts["clean.leakage.enabled"] or facts.gave("clean.leakage.enabled") is None:
        return None
    if facts["clean.leakage.against"] or facts["data.eval"]:
        return None
    return (
        "clean.leakage.enabled=true has no effect: no rows are held out. "
        "Try: clean.leakage.against=[FILE], or data.eval=FILE"
    )


@rule(
    ("clean.label_noise.enabled", "model.task"),
    "clean.label_noise with a task without classes",
    "it judges the class of a row",
)
def label_noise_task(facts: Facts) -> str | None:
    task = load_task(facts["model.task"])
    if not facts["clean.label_noise.enabled"] or task.labels == "classes":
        return None
    others = [name for name in task_names() if load_task(name).labels == "classes"]
    return (
        f"clean.label_noise.enabled=true: the rows of model.task={task.name} have no class. "
        f"Try: clean.label_noise=false, or model.task={others[0]}"
    )
