"""dropped.jsonl: every row that is not trained on, in the order of the source, with rule, reason and the row."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

MALFORMED, UNTRAINED, OVERLAP, TOO_LONG = (
    "malformed",
    "untrained",
    "overlap",
    "too_long",
)  # next to the names of cleaning rules


@dataclass(frozen=True)
class LeftOut:
    """One row that is not trained on; `row` is null where it could not be parsed."""

    source: str
    line: int
    rule: str
    reason: str
    row: Any = None

    def as_json(self) -> dict[str, Any]:  # JSON: the fields
        return asdict(self)


def json_lines(left_out: Iterable[LeftOut]) -> str:
    """Returns the rows as lines of dropped.jsonl; characters that are not UTF-8 are escaped."""
    return "".join(f"{json.dumps(each.as_json())}\n" for each in left_out)
