"""Chat rows, a list of messages: trains on what the assistant says, but for messages marked `"train": false`."""

from typing import Any

from distft.data.example import BadField, Example, Segment, text_field

FIELDS = ("messages",)
OPTIONAL = ("role", "content", "train", "tools")  # the first three are a message's own

ROLES = {"system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant"}


def example(row: dict[str, Any], names: dict[str, str]) -> Example:
    field = names["messages"]
    messages = row.get(field)
    if not isinstance(messages, list):
        raise BadField(field, f"is {type(messages).__name__}, expected a list" if field in row else "is missing")
    if not messages:
        raise BadField(field, "is empty")
    if row.get(names["tools"]):
        raise BadField(names["tools"], "tool calls cannot be rendered yet")
    segments = tuple(_segment(message, f"{field}[{i}]", names) for i, message in enumerate(messages))
    _check_turns(segments, field, names["role"])
    return Example(segments)


def _segment(message: Any, where: str, names: dict[str, str]) -> Segment:
    if not isinstance(message, dict):
        raise BadField(where, f"is {type(message).__name__}, expected an object with role and content")
    if message.get("tool_calls"):
        raise BadField(f"{where}.tool_calls", "tool calls cannot be rendered yet")
    written = text_field(message, names["role"], f"{where}.")
    role = ROLES.get(written)
    if role is None:
        raise BadField(f"{where}.{names['role']}", f"is {written!r}, expected one of {', '.join(ROLES)}")
    train = message.get(names["train"])
    if train is not None and not isinstance(train, bool):
        raise BadField(f"{where}.{names['train']}", f"is {train!r}, expected true or false")
    content = names["content"]
    if isinstance(message.get(content), list):
        message = message | {content: _joined(message[content], f"{where}.{content}")}
    text = text_field(message, content, f"{where}.")
    return Segment(role, text, role == "assistant" and train is not False)


def _joined(parts: list[Any], where: str) -> str:
    """Returns the text of a content that is given as a list of text parts."""
    for i, part in enumerate(parts):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise BadField(f"{where}[{i}]", "is no text part, and only text can be trained on")
    return "".join(part["text"] for part in parts)


def _check_turns(segments: tuple[Segment, ...], field: str, role: str) -> None:
    """Holds the order that chat templates are made for: one system text first, then user and assistant in turn."""
    start = 1 if segments[0].role == "system" else 0
    for i, segment in enumerate(segments[start:], start):
        expected = "assistant" if (i - start) % 2 else "user"
        if segment.role != expected:
            raise BadField(f"{field}[{i}].{role}", f"is {segment.role!r} where it is the {expected}'s turn")
