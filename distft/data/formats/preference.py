"""Preference pairs: a chosen and a rejected answer to one prompt, as texts or as lists of messages.

The prompt is a field of its own, or the beginning that both conversations share. Texts with `Human:` and `Assistant:`
turns, as in Anthropic's HH-RLHF, are conversations.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from distft.data.example import BadField, Example, RawJson, Segment, system_field, text_field, weight_field
from distft.data.formats import messages

FIELDS = ("chosen", "rejected")
OPTIONAL = ("prompt", "system", "tools", "functions", "weight")
_MESSAGE = messages.OBJECTS["messages"]
OBJECTS = {"chosen": _MESSAGE, "rejected": _MESSAGE, "prompt": _MESSAGE, "content": ("type", "text")}
OPEN = ("chosen", "rejected", "prompt")
TASKS = ("preference", "reward_model")

TURN = re.compile(r"\n\n(Human|Assistant):[ ]?")


def example(row: RawJson, names: dict[str, str]) -> Example:
    chosen, rejected = (_conversation(row, names[field], names) for field in FIELDS)
    if row.get(names["prompt"]) is not None:
        prompt = _prompt(row, names)
    else:
        prompt = _shared(chosen, rejected, names)
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    for field, answer in zip(FIELDS, (chosen, rejected), strict=True):
        if not any(part.role in ("assistant", "completion") for part in answer):
            raise BadField(names[field], "has no answer of the assistant")
    if chosen == rejected:
        raise BadField(names["rejected"], f"equals {names['chosen']}")
    before = (*system_field(row, names["system"]), *(replace(part, train=False) for part in prompt))
    return Example(
        (*before, *chosen),
        messages.tools_of(row, names),
        weight_field(row, names["weight"]),
        rejected=(*before, *rejected),
    )


def _conversation(row: RawJson, field: str, names: dict[str, str]) -> tuple[Segment, ...]:
    if isinstance(row.get(field), list):
        return messages.conversation(row, field, names)
    text = text_field(row, field)
    if not text.startswith(("\n\nHuman:", "\n\nAssistant:")):
        return (Segment("completion", text, True),)
    roles, texts = TURN.split(text)[1::2], TURN.split(text)[2::2]
    turns = [
        ("user" if role == "Human" else "assistant", words.strip()) for role, words in zip(roles, texts, strict=True)
    ]
    return tuple(Segment(role, words, role == "assistant") for role, words in turns)


def _prompt(row: RawJson, names: dict[str, str]) -> tuple[Segment, ...]:
    if isinstance(row[names["prompt"]], list):
        return messages.conversation(row, names["prompt"], names)
    return (Segment("prompt", text_field(row, names["prompt"]), False),)


def _shared(chosen: Sequence[Segment], rejected: Sequence[Segment], names: dict[str, str]) -> tuple[Segment, ...]:
    """Returns the beginning that both conversations share: an implicit prompt."""
    count = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        count += 1
    if count == 0:
        why = f"is missing, and {names['chosen']} and {names['rejected']} do not begin with the same messages"
        raise BadField(names["prompt"], why)
    if count in (len(chosen), len(rejected)):
        raise BadField(names["rejected"], f"and {names['chosen']} hold the same messages, one of them more")
    return tuple(chosen[:count])
