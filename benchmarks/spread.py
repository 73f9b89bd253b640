"""Several measurements of one thing as a reader sees them: the median, and how far they lie apart."""

from collections.abc import Sequence
from statistics import median


def spread(values: Sequence[float], form: str = "{:,.0f}") -> str:
    """Returns `median (least to most)`; a single value stands alone, and none is a dash."""
    if not values:
        return "-"
    text = form.format(median(values))
    return text if len(values) == 1 else f"{text} ({form.format(min(values))} to {form.format(max(values))})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
