"""Examples: the common form of a row, text segments with a role and a train flag, that every format returns."""

from dataclasses import dataclass
from typing import Any


class BadField(ValueError):
    """A row is malformed; `field` and `reason` say where and why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


@dataclass(frozen=True)
class Segment:
    """Text with a role: system, user or assistant in a chat, else prompt, completion or text."""

    role: str
    text: str
    train: bool


@dataclass(frozen=True)
class Example:
    segments: tuple[Segment, ...]


def text_field(row: dict[str, Any], field: str, where: str = "") -> str:
    """Returns a non-empty text that is valid for every tokenizer.

    where: prefix of the field's name in error messages. Raises BadField for anything else.
    """
    name = where + field
    value = row.get(field)
    if value is None:
        raise BadField(name, "is missing" if field not in row else "is null")
    if not isinstance(value, str):
        raise BadField(name, f"is {type(value).__name__}, expected text")
    if not value.strip():
        raise BadField(name, "is empty")
    if "\0" in value:
        raise BadField(name, f"holds a NUL character at position {value.index(chr(0))}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadField(name, f"is not UTF-8, or half of a surrogate pair, at position {error.start}") from None
    return value


def system_field(row: dict[str, Any], field: str) -> tuple[Segment, ...]:
    """Returns the system segment of a row; an empty tuple where the field is missing, null or empty."""
    return (Segment("system", text_field(row, field), False),) if row.get(field) not in (None, "") else ()
