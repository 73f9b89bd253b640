"""The faults as JSON, and as a Markdown table of medians, 95th percentiles and maxima for each kind."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from tests.chaos.measure import Cost

_COLUMNS = {
    "seen after, over the limit (s)": lambda cost: cost.seen_seconds and cost.seen_seconds - cost.limit_seconds,
    "all ranks ended (s)": lambda cost: cost.ended_seconds,
    "next step, over the limit (s)": lambda cost: (
        cost.next_step_seconds and cost.next_step_seconds - cost.limit_seconds
    ),
    "steps lost": lambda cost: cost.lost_steps,
}


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the smallest value that so large a share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def table(found: Sequence[Cost]) -> str:
    """Returns a line for each kind, and one for all; median / 95th percentile / maximum."""
    rows = ["| kind | faults | " + " | ".join(_COLUMNS) + " |", "|---|---|" + "---|" * len(_COLUMNS)]
    kinds = sorted({cost.kind for cost in found})
    rows += [_row(kind, [cost for cost in found if cost.kind == kind]) for kind in kinds]
    return "\n".join([*rows, _row("all", list(found))])


def write(out: Path, found: Sequence[Cost], more: dict[str, object]) -> None:
    """Writes OUT.json and OUT.md."""
    out.with_suffix(".json").write_text(json.dumps({**more, "faults": [asdict(each) for each in found]}, indent=1))
    out.with_suffix(".md").write_text(table(found) + "\n")


def _row(kind: str, costs: Sequence[Cost]) -> str:
    return f"| {kind} | {len(costs)} | " + " | ".join(_cells(costs)) + " |"


def _cells(costs: Sequence[Cost]) -> Iterator[str]:
    for of in _COLUMNS.values():
        values = [value for cost in costs if (value := of(cost)) is not None]
        form = "{:.0f}" if values and all(isinstance(value, int) for value in values) else "{:.1f}"
        yield (
            " / ".join(form.format(each) for each in (median(values), percentile(values, 0.95), max(values)))
            if values
            else "-"
        )
