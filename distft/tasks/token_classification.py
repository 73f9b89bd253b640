"""Classification of tokens, such as named entities: a tag per word, read at the word's first token."""

from distft.tasks import Evaluated, Metrics, Sums, Task


def metrics(sums: Sums, count: int) -> Metrics:
    return {"accuracy": sums["correct"] / count}


def held_out(found: Evaluated) -> Metrics:
    from distft.tasks.metrics import of_classes

    return of_classes(found.outputs, found.labels[:, 0])


TASK = Task(
    name="token_classification",
    unit="token",
    losses=("cross_entropy",),
    model_class="AutoModelForTokenClassification",
    peft_type="TOKEN_CLS",
    formats=("token_classification",),
    labels="tags",
    metrics=metrics,
    held_out=held_out,
    gathers=True,
    metric_names=("loss", "accuracy", "f1_macro", "f1_micro", "auroc", "ece"),
)
