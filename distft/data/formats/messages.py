"""Chat format, a list of messages: trains on assistant turns, except those with `train: false` or `weight: 0`.

A separate system field becomes the first message. Tool calls are read in OpenAI's form (`tools`, `tool_calls`,
`tool_call_id`, and the older `functions` and `function_call`), as Hermes' <tool_call> and <tool_response> tags, and as
ShareGPT's `function_call` and `observation` turns. Every other key of a message goes to the chat template.
"""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from distft.data.example import BadField, Example, RawJson, Segment, system_field, text_field, weight_field
from distft.data.template import REASONING

FIELDS = ("messages",)
OPTIONAL = ("system", "tools", "functions", "weight")
OBJECTS = {"messages": ("role", "content", "train", "weight"), "content": ("type", "text")}
OPEN = ("messages",)  # whose objects may have further keys, which the chat template reads

CALLS = ("function_call", "tool_call")  # roles whose content is a call as JSON
ROLES = {
    **{role: role for role in ("system", "developer", "user", "assistant", "tool")},
    **{"human": "user", "gpt": "assistant"},
    **dict.fromkeys(("function", "ipython", "observation", "tool_response"), "tool"),
    **dict.fromkeys(CALLS, "assistant"),
}
PLAIN_ROLES = {written: role for written, role in ROLES.items() if written not in CALLS and role != "tool"}
HERMES_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
HERMES_RESPONSE = re.compile(r"\s*<tool_response>\s*(.*?)\s*</tool_response>\s*", re.DOTALL)
NOT_KEPT = ("tool_calls", "tool_call_id", "function_call")


def example(row: RawJson, names: dict[str, str]) -> Example:
    field = names["messages"]
    segments = conversation(row, field, names)
    system = system_field(row, names["system"])
    if system and segments[0].role == "system":
        raise BadField(names["system"], f"and {field}[0] are both system messages, expected one of them")
    return Example(system + segments, tools=tools_of(row, names), weight=weight_field(row, names["weight"]))


def conversation(row: RawJson, field: str, names: dict[str, str]) -> tuple[Segment, ...]:
    """Returns the segments of a list of messages; names: of the keys role, content, train and weight."""
    messages = row.get(field)
    if not isinstance(messages, list):
        raise BadField(field, f"is {type(messages).__name__}, expected a list" if field in row else "is missing")
    if not messages:
        raise BadField(field, "is empty")
    segments = tuple(_segment(message, f"{field}[{i}]", names) for i, message in enumerate(messages))
    return tuple(_linked(segments, field))


def tools_of(row: RawJson, names: dict[str, str]) -> tuple[RawJson, ...]:
    """Returns the schemas of a row's `tools`, a list or JSON text, or of its older `functions`."""
    given = [names[ours] for ours in ("tools", "functions") if row.get(names.get(ours, "")) not in (None, "", [])]
    if len(given) > 1:
        raise BadField(given[0], f"and {given[1]} both occur, expected one of them")
    if not given:
        return ()
    value = _json(row[given[0]], given[0]) if isinstance(row[given[0]], str) else row[given[0]]
    if not isinstance(value, list):
        raise BadField(given[0], f"is {type(value).__name__}, expected a list of JSON schemas")
    return tuple(_schema(tool, f"{given[0]}[{i}]") for i, tool in enumerate(value))


def _schema(tool: Any, where: str) -> RawJson:
    if isinstance(tool, dict) and "function" not in tool and "name" in tool:
        tool = {"type": "function", "function": tool}
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadField(where, 'is not a function, expected {"type": "function", "function": {"name": ...}}')
    return tool


def _segment(message: Any, where: str, names: dict[str, str]) -> Segment:
    if not isinstance(message, dict):
        raise BadField(where, f"is {type(message).__name__}, expected an object with role and content")
    written = message.get(names["role"])
    if not isinstance(written, str) or written not in ROLES:
        written = text_field(message, names["role"], f"{where}.")
        raise BadField(f"{where}.{names['role']}", f"is {written!r}, expected one of {', '.join(ROLES)}")
    if len(message) == 2 and written in PLAIN_ROLES and type(plain := message.get(names["content"])) is str:
        role = PLAIN_ROLES[written]  # most messages: a role and a text
        if role != "assistant" or "<tool_call>" not in plain:
            return Segment(role, text_field(message, names["content"], f"{where}."), role == "assistant")
    role, content = ROLES[written], names["content"]
    trained, weight = _trained(message, role, where, names)
    if isinstance(message.get(content), list):
        message = message | {content: _joined(message[content], f"{where}.{content}")}
    fields = _other_fields(message, names)
    for key in (key for key in REASONING if key in fields):
        text_field(message, key, f"{where}.")
    calls = list(_calls(message, written, where, names)) if role == "assistant" else []
    if misplaced := next((key for key in ("tool_calls", "function_call") if message.get(key) and not calls), None):
        raise BadField(f"{where}.{misplaced}", f"is on a {role} message, expected on the assistant's")
    if calls and written in CALLS:
        return Segment(role, "", trained, weight, fields | {"tool_calls": calls})
    may_be_empty = bool(calls) or role == "tool" or any(key in fields for key in REASONING)
    text = ""
    if not may_be_empty or message.get(content) is not None:
        text = text_field(message, content, f"{where}.", allow_empty=may_be_empty)
    if calls:
        return Segment(role, text, trained, weight, fields | {"tool_calls": calls})
    if role == "assistant" and "<tool_call>" in text:
        return _hermes(Segment(role, text, trained, weight, fields), f"{where}.{content}")
    if role == "tool":
        text = match[1] if (match := HERMES_RESPONSE.fullmatch(text)) else text
        if message.get("tool_call_id"):
            fields["tool_call_id"] = text_field(message, "tool_call_id", f"{where}.")
    return Segment(role, text, trained, weight, fields)


def _other_fields(message: RawJson, names: dict[str, str]) -> RawJson:
    """Returns the fields of a message that only the chat template reads."""
    own = (names["role"], names["content"], names["train"], names["weight"], *NOT_KEPT)
    return {key: value for key, value in message.items() if key not in own and value not in (None, "")}


def _trained(message: RawJson, role: str, where: str, names: dict[str, str]) -> tuple[bool, float]:
    """Returns whether a turn is trained, and its weight: assistant turns, unless `train` is false or `weight` is 0."""
    flag, weight = message.get(names["train"]), message.get(names["weight"])
    if flag is not None and not isinstance(flag, bool):
        raise BadField(f"{where}.{names['train']}", f"is {flag!r}, expected true or false")
    if flag is None and weight is None:
        return role == "assistant", 1.0
    value = weight_field(message, names["weight"], f"{where}.")
    for name, given in (("train", flag), ("weight", weight)):
        if given and role != "assistant":
            why = f"is {given!r} on a {role} message; only the assistant's can be trained"
            raise BadField(f"{where}.{names[name]}", why)
    if None not in (flag, weight) and bool(flag) != bool(weight):
        both = f"{names['train']}={flag} and {names['weight']}={weight}"
        raise BadField(where, f"{both} contradict each other")
    is_trained = role == "assistant" and flag is not False and value > 0
    return is_trained, value if is_trained else 1.0


def _calls(message: RawJson, written: str, where: str, names: dict[str, str]) -> Iterator[RawJson]:
    """Yields the tool calls of an assistant's message, in OpenAI's form with their arguments as an object."""
    given = message.get("tool_calls")
    given = _json(given, f"{where}.tool_calls") if isinstance(given, str) and given else given
    if older := message.get("function_call"):
        if given:
            raise BadField(f"{where}.function_call", "and tool_calls both occur, expected one of them")
        yield _call(older, f"{where}.function_call")
    elif written in CALLS:
        content = f"{where}.{names['content']}"
        value = _json(text_field(message, names["content"], f"{where}."), content)
        for call in value if isinstance(value, list) else [value]:
            yield _call(call, content)
    elif given not in (None, "", []):
        if not isinstance(given, list):
            raise BadField(f"{where}.tool_calls", f"is {type(given).__name__}, expected a list")
        for i, call in enumerate(given):
            yield _call(call, f"{where}.tool_calls[{i}]")


def _call(call: Any, where: str) -> RawJson:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise BadField(where, "is not a call, expected a function with name and arguments")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        arguments = _json(arguments or "{}", f"{where}.arguments")
    if not isinstance(arguments if arguments is not None else {}, dict):
        raise BadField(f"{where}.arguments", f"is {type(arguments).__name__}, expected an object")
    kept = {"id": call["id"]} if isinstance(call.get("id"), str) and call["id"] else {}
    return kept | {"type": "function", "function": {"name": function["name"], "arguments": arguments or {}}}


def _hermes(segment: Segment, where: str) -> Segment:
    """Returns an assistant's turn with the calls out of its <tool_call> tags, if they end it."""
    found = list(HERMES_CALL.finditer(segment.text))
    before = segment.text[: found[0].start()] if found else segment.text
    if not found or HERMES_CALL.sub("", segment.text[found[0].start() :]).strip():
        return segment  # text that mentions the tags
    calls = [_call(_json(match[1], where, python=True), where) for match in found]
    return replace(segment, text=before.strip(), fields=segment.fields | {"tool_calls": calls}, written=segment.text)


def _linked(segments: tuple[Segment, ...], field: str) -> Iterator[Segment]:
    """Yields the segments, the tool's with the name of the function that they answer, where a call gives it.

    Raises BadField for an answer to a call that nobody made.
    """
    names: dict[str, str] = {}
    unanswered: list[str] = []
    for i, segment in enumerate(segments):
        if calls := segment.fields.get("tool_calls"):
            names |= {call["id"]: call["function"]["name"] for call in calls if "id" in call}
            unanswered = [call["function"]["name"] for call in calls]
        if segment.role != "tool":
            yield segment
            continue
        identity = segment.fields.get("tool_call_id")
        if identity is not None and names and identity not in names:
            raise BadField(
                f"{field}[{i}].tool_call_id", f"is {identity!r}, and no earlier message has a call of that id"
            )
        name = names.get(identity or "") or (unanswered.pop(0) if unanswered else None)
        yield replace(segment, fields=({"name": name} if name else {}) | segment.fields)


def _json(text: str, where: str, python: bool = False) -> Any:
    """Returns the value of JSON text; python: or of a Python literal, as some Hermes rows have it."""
    try:
        return json.loads(text)
    except ValueError as error:
        reason = error
    if python:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass
    raise BadField(where, f"is not JSON: {reason}") from None


def _joined(parts: list[Any], where: str) -> str:
    """Returns the text of a content that is given as a list of text parts."""
    for i, part in enumerate(parts):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise BadField(f"{where}[{i}]", "is not a text part, and only text is supported")
    return "".join(part["text"] for part in parts)
