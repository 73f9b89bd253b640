"""Rules of the rows: how they are read, cleaned, cut and held out, and what a task and its loss need of them."""

from datetime import datetime

from distft.config.key import shown
from distft.config.parts import WITH_ADAPTERS
from distft.config.rules.contract import Facts, rule
from distft.tasks import load_task, task_names
from distft.tasks.preference import formats_of


@rule(
    ("data.format", "data.chat_template"),
    "data.format=messages with data.chat_template=none",
    "only a template says how turns are put together",
)
def template(facts: Facts) -> str | None:
    if facts["data.format"] not in ("messages", "sharegpt") or facts["data.chat_template"] != "none":
        return None
    return "data.chat_template=none cannot put messages together. Try: data.chat_template=auto"


@rule(
    ("data.seed_date",),
    "data.seed_date that no calendar has",
    "a chat template may print it",
)
def seed_date(facts: Facts) -> str | None:
    date = str(facts["data.seed_date"])
    try:
        datetime.strptime(date, "%Y-%m-%d")
    except ValueError:
        return f"data.seed_date={date} is no day of the calendar. Try: data.seed_date=2024-07-26"
    return None


@rule(
    ("data.eval", "data.overlap", "data.split_seed", "data.eval_split"),
    "data.split_seed with held-out rows of their own; data.overlap or data.eval_split with a held-out fraction",
    "the other way of holding out decides",
)
def overlap_unused(facts: Facts) -> str | None:
    own = isinstance(facts["data.eval"], str | list)
    if own and facts.gave("data.split_seed"):
        seed = facts["data.split_seed"]
        return f"data.split_seed={seed} has no effect: data.eval has rows of its own. Try: data.eval=0.05"
    if (
        not own
        and facts.gave("data.overlap")
        and not (facts["clean.leakage.enabled"] and (facts["clean.leakage.against"] or facts["data.eval"]))
    ):
        return f"data.overlap={facts['data.overlap']} has no effect: held-out rows never overlap. Try: data.eval=FILE"
    if not own and facts["data.eval_split"] is not None:
        split = facts["data.eval_split"]
        return f"data.eval_split={split} has no effect: it is of an own data.eval. Try: data.eval=FILE"
    return None


@rule(
    ("model.task",),
    "a loss that is not one of model.task's",
    "each needs other labels",
)
def loss_of_task(facts: Facts) -> str | None:
    task, word = load_task(facts["model.task"]), facts.choices.get("loss")
    if word is None or word in task.losses or not any(word in load_task(name).losses for name in task_names()):
        return None  # a loss of one's own may fit any task
    others = [name for name in task_names() if word in load_task(name).losses]
    return f"loss={word} is for model.task={' or '.join(others)}, not for {task.name}. Try: loss={task.losses[0]}"


@rule(
    ("model.task", "data.format"),
    "a data.format that is not one of model.task's",
    "its rows lack the labels",
)
def format_of_task(facts: Facts) -> str | None:
    task, form = load_task(facts["model.task"]), facts["data.format"]
    if form == "auto":
        return None
    if not task.formats:
        others = [name for name in task_names() if form in load_task(name).formats]
        return f"data.format={form} is for model.task={others[0]}. Try: model.task={others[0]}" if others else None
    if form in task.formats:
        return None
    return f"data.format={form} has no labels for model.task={task.name}. Try: data.format={task.formats[0]}"


@rule(
    ("model.task",),
    "data.train_on, data.train_reasoning, data.chat_template, data.seed_date or eval.samples with a task of labels",
    "its rows are plain text without an answer",
)
def text_unused(facts: Facts) -> str | None:
    keys = ("data.train_on", "data.train_reasoning", "data.chat_template", "data.seed_date", "eval.samples")
    key = facts.gave(*keys)
    if load_task(facts["model.task"]).labels == "none" or key is None or (key == "eval.samples" and not facts[key]):
        return None
    task = facts["model.task"]
    return f"{key}={facts[key]} has no effect with model.task={task}, whose rows have no answer. Try: ~{key}"


@rule(
    ("model.task", "data.truncate"),
    "data.truncate=split or drop_turns with a task of labels",
    "a label belongs to the whole text",
)
def truncated_label(facts: Facts) -> str | None:
    how, task = facts["data.truncate"], facts["model.task"]
    if load_task(task).labels == "none" or how not in ("split", "drop_turns"):
        return None
    return f"data.truncate={how} would cut a text from its label (model.task={task}). Try: data.truncate=cut"


@rule(
    ("model.task", "loss.class_weights"),
    "loss.class_weights with model.task=causal_lm, or with weights that are no positive numbers",
    "a vocabulary has no classes",
)
def class_weights(facts: Facts) -> str | None:
    weights, task = facts["loss"].get("class_weights"), facts["model.task"]
    if weights is None:
        return None
    if load_task(task).labels not in ("classes", "tags"):
        return f"loss.class_weights={weights} has no effect with model.task={task}. Try: loss.class_weights=null"
    if any(isinstance(each, bool) or not isinstance(each, int | float) or not each > 0 for each in weights):
        return f"loss.class_weights={weights} is not a list of positive numbers. Try: loss.class_weights=[1, 2.5]"
    return None


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
    kind = str(facts["tuning._target_"]).rpartition(".")[2]
    if facts["loss.reference"] != "adapter" or kind in WITH_ADAPTERS:
        return None
    return (
        f"loss.reference=adapter needs adapters to switch off, and tuning={facts.choices.get('tuning')} has none. "
        "Try: loss.reference=stored"
    )


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
