"""Examples: the common form of a row, text segments with a role and a train flag, that every format returns."""

from dataclasses import dataclass, field, replace
from typing import Any

RawJson = dict[str, Any]  # a JSON object of a user's row or tool call: its fields are the user's own


class BadField(ValueError):
    """A row is malformed; `field` and `reason` say where and why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


@dataclass(frozen=True)
class Segment:
    """Text with a role: system, developer, user, assistant or tool in a chat, else prompt, completion or text."""

    role: str
    text: str  # empty next to tool calls, and where a tool returned nothing
    train: bool
    weight: float = 1.0  # of each of its trained tokens in the loss
    fields: RawJson = field(default_factory=dict)  # other keys of the message: tool_calls, reasoning_content, name ...
    written: str | None = None  # `text` with its Hermes calls, for templates that render none; None: no such calls


@dataclass(frozen=True)
class Example:
    """A row: the segments of one document, or of a pair with a common beginning."""

    segments: tuple[Segment, ...]  # of a preference pair: with the chosen answer
    tools: tuple[RawJson, ...] = ()  # JSON schemas of the functions that the assistant may call
    weight: float = 1.0  # multiplies the weights of the segments
    rejected: tuple[Segment, ...] = ()  # of a preference pair: the segments with the rejected answer
    label: bool | float | str | tuple[str | int, ...] | tuple[float, ...] | None = (
        None  # class or classes, value or values, or whether an answer is desirable (KTO)
    )


IN_A_CHAT = {"completion": "assistant", "prompt": "user"}


def role_of(segment: Segment) -> str:
    """Returns the role of a segment in a chat: a prompt is the user's, a completion the assistant's."""
    return IN_A_CHAT.get(segment.role, segment.role)


def without_turns(example: Example, count: int) -> Example | None:
    """Returns a conversation without its first `count` exchanges, system texts kept; None where nothing is left."""
    first = next((i for i, part in enumerate(example.segments) if part.role not in ("system", "developer")), 0)
    head, turns = example.segments[:first], example.segments[first:]
    starts = [i for i, part in enumerate(turns) if role_of(part) == "user" and i]
    return replace(example, segments=head + turns[starts[count - 1] :]) if count <= len(starts) else None


def text_field(row: RawJson, field: str, where: str = "", allow_empty: bool = False) -> str:
    """Returns a text that is valid for every tokenizer, not empty unless `allow_empty`.

    where: prefix of the field's name in error messages. Raises BadField for anything else.
    """
    name = where + field
    value = row.get(field)
    if value is None:
        raise BadField(name, "is missing" if field not in row else "is null")
    if not isinstance(value, str):
        raise BadField(name, f"is {type(value).__name__}, expected text")
    if not allow_empty and (not value or value.isspace()):
        raise BadField(name, "is empty")
    if "\0" in value:
        raise BadField(name, f"holds a NUL character at position {value.index(chr(0))}")
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadField(name, f"is not UTF-8, or half of a surrogate pair, at position {error.start}") from None
    return value


def system_field(row: RawJson, field: str) -> tuple[Segment, ...]:
    """Returns the system segment of a row; an empty tuple where the field is missing, null or empty."""
    return (Segment("system", text_field(row, field), False),) if row.get(field) not in (None, "") else ()


def weight_field(row: RawJson, field: str, where: str = "") -> float:
    """Returns a weight in the loss, 1 where the field is missing or null; raises BadField unless finite and >= 0."""
    value = row.get(field)
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise BadField(f"{where}{field}", f"is {value!r}, expected a number of at least 0")
    return float(value)
