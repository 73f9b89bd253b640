"""Chat format, a list of messages: trains on assistant turns, except those with `train: false` or `weight: 0`.

A separate system field becomes the first message.
"""

from typing import Any

from distft.data.example import BadField, Example, Segment, system_field, text_field

FIELDS = ("messages",)
OPTIONAL = ("system",)
OBJECTS = {"messages": ("role", "content", "train", "weight"), "content": ("type", "text")}

ROLES = {"system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant"}
TOOLS = ("tool", "function", "ipython", "observation", "function_call", "tool_call", "tool_response")


def example(row: dict[str, Any], names: dict[str, str]) -> Example:
    field = names["messages"]
    messages = row.get(field)
    if not isinstance(messages, list):
        raise BadField(field, f"is {type(messages).__name__}, expected a list" if field in row else "is missing")
    if not messages:
        raise BadField(field, "is empty")
    segments = tuple(_segment(message, f"{field}[{i}]", names) for i, message in enumerate(messages))
    _check_turns(segments, field, names["role"])
    system = system_field(row, names["system"])
    if system and segments[0].role == "system":
        raise BadField(names["system"], f"and {field}[0] are both system messages, expected one of them")
    return Example(system + segments)


def _segment(message: Any, where: str, names: dict[str, str]) -> Segment:
    if not isinstance(message, dict):
        raise BadField(where, f"is {type(message).__name__}, expected an object with role and content")
    written = text_field(message, names["role"], f"{where}.")
    role = ROLES.get(written)
    if role is None:
        later = "; tools cannot be rendered yet" if written in TOOLS else ""
        raise BadField(f"{where}.{names['role']}", f"is {written!r}, expected one of {', '.join(ROLES)}{later}")
    content = names["content"]
    trained = _trained(message, role, where, names)
    if isinstance(message.get(content), list):
        message = message | {content: _joined(message[content], f"{where}.{content}")}
    return Segment(role, text_field(message, content, f"{where}."), trained)


def _trained(message: dict[str, Any], role: str, where: str, names: dict[str, str]) -> bool:
    """Returns whether a turn is trained: assistant turns, unless `train` is false or `weight` is 0."""
    flags = {}
    for ours, allowed in (("train", (True, False)), ("weight", (0, 1))):
        name = names[ours]
        value = message.get(name)
        if value is None:
            continue
        if ours == "train" and not isinstance(value, bool):
            raise BadField(f"{where}.{name}", f"is {value!r}, expected true or false")
        if not isinstance(value, bool | int | float) or value not in allowed:
            raise BadField(f"{where}.{name}", f"is {value!r}, expected 0 or 1; other weights are not built yet")
        if value and role != "assistant":
            raise BadField(f"{where}.{name}", f"is {value!r} on a {role} message; only the assistant's can be trained")
        flags[name] = bool(value)
    if len(set(flags.values())) > 1:
        both = " and ".join(f"{name}={message[name]}" for name in flags)
        raise BadField(where, f"{both} contradict each other")
    return role == "assistant" and all(flags.values())


def _joined(parts: list[Any], where: str) -> str:
    """Returns the text of a content that is given as a list of text parts."""
    for i, part in enumerate(parts):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise BadField(f"{where}[{i}]", "is not a text part, and only text is supported")
    return "".join(part["text"] for part in parts)


def _check_turns(segments: tuple[Segment, ...], field: str, role: str) -> None:
    """Raises BadField unless an optional system message comes first, then user and assistant alternate."""
    start = 1 if segments[0].role == "system" else 0
    for i, segment in enumerate(segments[start:], start):
        expected = "assistant" if (i - start) % 2 else "user"
        if segment.role != expected:
            raise BadField(f"{field}[{i}].{role}", f"is {segment.role!r}, expected {expected!r}")
