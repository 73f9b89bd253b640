"""What goes with model.task: the loss, the format of the rows, and settings of text that is generated."""

from distft.config.rules.contract import Facts, rule
from distft.tasks import load_task, task_names


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
