"""Regression: one value per row, or several; the loss is the mean over a row's values."""

from distft.tasks import Evaluated, Metrics, Sums, Task


def metrics(sums: Sums, count: int) -> Metrics:
    return {"mse": sums["squared_error"] / count, "mae": sums["absolute_error"] / count}


def held_out(found: Evaluated) -> Metrics:
    from distft.tasks.metrics import of_values

    return of_values(found.outputs, found.labels)


TASK = Task(
    name="regression",
    unit="row",
    losses=("mse", "huber"),
    model_class="AutoModelForSequenceClassification",
    peft_type="SEQ_CLS",
    formats=("regression",),
    labels="values",
    metrics=metrics,
    held_out=held_out,
    gathers=True,
    metric_names=("loss", "mse", "mae", "r2", "pearson", "spearman"),
)
