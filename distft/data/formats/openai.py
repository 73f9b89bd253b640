"""OpenAI's fine-tuning format: `messages` and maybe `tools`, checked by the rules that OpenAI checks a file by.

Never detected, since the rows fit `messages` too. `row_of` writes a row of any other conversation in this format.
Rules: https://platform.openai.com/docs/guides/supervised-fine-tuning and the data checks of OpenAI's cookbook.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from distft.data.example import BadField, Example, RawJson, Segment
from distft.data.formats import messages

FIELDS = ("messages",)
OPTIONAL = ("tools", "functions", "parallel_tool_calls")
KEYS = ("role", "content", "name", "weight", "tool_calls", "tool_call_id", "function_call", "refusal")
OBJECTS = {"messages": KEYS, "content": ("type", "text")}
fits = False

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
MAX_TOOLS = 128


def example(row: RawJson, names: dict[str, str]) -> Example:
    check(row, names["messages"], names["tools"])
    return messages.example(row, {"system": "", "train": "", **names})


def check(row: RawJson, field: str = "messages", tools: str = "tools") -> None:
    """Raises BadField where OpenAI would refuse a row."""
    turns = row.get(field)
    if not isinstance(turns, list) or not turns:
        raise BadField(field, "is missing or empty, expected a list of messages")
    for i, message in enumerate(turns):
        where = f"{field}[{i}]"
        if not isinstance(message, dict):
            raise BadField(where, "is not an object")
        _check_message(message, where)
    if turns[-1]["role"] != "assistant":
        raise BadField(f"{field}[{len(turns) - 1}].role", f"is {turns[-1]['role']!r}, the last must be the assistant's")
    schemas = row.get(tools) or []
    if isinstance(schemas, list) and len(schemas) > MAX_TOOLS:
        raise BadField(tools, f"has {len(schemas)} functions, OpenAI takes at most {MAX_TOOLS}")
    for i, tool in enumerate(schemas if isinstance(schemas, list) else []):
        name = (tool.get("function") or tool).get("name") if isinstance(tool, dict) else None
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise BadField(f"{tools}[{i}]", f"has the name {name!r}, expected up to 64 letters, digits, _ and -")


def _check_message(message: RawJson, where: str) -> None:
    role, weight = message.get("role"), message.get("weight")
    if role not in ROLES:
        raise BadField(f"{where}.role", f"is {role!r}, expected one of {', '.join(ROLES)}")
    if weight is not None and (role != "assistant" or weight not in (0, 1) or isinstance(weight, bool)):
        raise BadField(f"{where}.weight", f"is {weight!r} on a {role} message, expected 0 or 1 on the assistant's")
    if role == "tool" and not message.get("tool_call_id"):
        raise BadField(f"{where}.tool_call_id", "is missing on a tool message")
    if role != "assistant" and message.get("content") is None:
        raise BadField(f"{where}.content", "is missing")
    if (
        not any(message.get(key) for key in ("content", "tool_calls", "function_call", "refusal"))
        and role == "assistant"
    ):
        raise BadField(where, "has neither content nor a call")
    for i, call in enumerate(message.get("tool_calls") or []):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not call.get("id") or call.get("type") != "function":
            raise BadField(f"{where}.tool_calls[{i}]", "needs an id, the type `function` and a function")
        if not isinstance(function.get("arguments"), str):
            raise BadField(f"{where}.tool_calls[{i}].function.arguments", "is not JSON text")


def row_of(example: Example) -> RawJson:
    """Returns a conversation as a row of this format; raises BadField where it cannot say what the example says."""
    row: RawJson = {"messages": [_message(part, i, example.segments) for i, part in enumerate(example.segments)]}
    if example.weight not in (0.0, 1.0):
        raise BadField("weight", f"is {example.weight:g}, and OpenAI's format knows 0 and 1 only")
    if example.weight == 0:
        row["messages"] = [m | ({"weight": 0} if m["role"] == "assistant" else {}) for m in row["messages"]]
    if example.tools:
        row["tools"] = list(example.tools)
    check(row)
    return row


def _message(part: Segment, i: int, segments: Sequence[Segment]) -> RawJson:
    role = {"prompt": "user", "completion": "assistant"}.get(part.role, part.role)
    if role not in ROLES:
        raise BadField("messages", f"a {part.role} is not a conversation")
    if part.weight not in (0.0, 1.0):
        raise BadField(f"messages[{i}].weight", f"is {part.weight:g}, and OpenAI's format knows 0 and 1 only")
    message: RawJson = {"role": role, "content": part.text or None if role == "assistant" else part.text}
    if role == "assistant" and not part.train:
        message["weight"] = 0
    for key, value in part.fields.items():
        if key == "tool_calls":
            message["tool_calls"] = [_call(call, i, number) for number, call in enumerate(value)]
        elif key == "tool_call_id":
            message[key] = value
        elif not (role == "tool" and key == "name"):
            raise BadField(f"messages[{i}].{key}", "has no place in OpenAI's format")
    if role == "tool" and "tool_call_id" not in message:
        message["tool_call_id"] = _answered(i, segments)
    return message


def _call(call: RawJson, i: int, number: int) -> RawJson:
    function = call["function"] | {"arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False)}
    return {"id": call.get("id", f"call_{i}_{number}"), "type": "function", "function": function}


def _answered(i: int, segments: Sequence[Segment]) -> str:
    """Returns the id of the call that a tool message without an id answers: they come in order."""
    at = next((j for j in range(i - 1, -1, -1) if segments[j].role != "tool"), 0)
    calls: list[Any] = segments[at].fields.get("tool_calls", [])
    number = i - at - 1
    if number >= len(calls):
        raise BadField(f"messages[{i}]", "answers a call that no message makes")
    return calls[number].get("id", f"call_{at}_{number}")
