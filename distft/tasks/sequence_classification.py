"""Classification of rows: one class each, or several (bce), read from the last token, or an encoder's first."""

from distft.tasks import Evaluated, Metrics, Sums, Task


def metrics(sums: Sums, count: int) -> Metrics:
    return {"accuracy": sums["correct"] / count}


def held_out(found: Evaluated) -> Metrics:
    from distft.tasks.metrics import of_classes, of_several_classes

    one_each = found.labels.shape[1] == 1
    return (
        of_classes(found.outputs, found.labels[:, 0]) if one_each else of_several_classes(found.outputs, found.labels)
    )


TASK = Task(
    name="sequence_classification",
    unit="row",
    losses=("cross_entropy", "bce"),
    model_class="AutoModelForSequenceClassification",
    peft_type="SEQ_CLS",
    formats=("classification",),
    labels="classes",
    metrics=metrics,
    held_out=held_out,
    gathers=True,
    metric_names=("loss", "accuracy", "f1_macro", "f1_micro", "auroc", "ece"),
)
