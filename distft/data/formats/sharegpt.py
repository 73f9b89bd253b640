"""ShareGPT format: conversations of {from, value} or {role, content}, and an optional system text."""

from distft.data.example import BadField, Example, RawJson
from distft.data.formats import messages

FIELDS = ("conversations",)
OPTIONAL = messages.OPTIONAL
OBJECTS = {"conversations": ("from", "value", "role", "content", "train", "weight"), "content": ("type", "text")}
OPEN = ("conversations",)


def example(row: RawJson, names: dict[str, str]) -> Example:
    field, own = names["conversations"], {"role": names["from"], "content": names["value"]}
    turns = [turn for turn in row.get(field) or () if isinstance(turn, dict)]
    others = [theirs for theirs in ("role", "content") if any(names[theirs] in turn for turn in turns)]
    if others and (mixed := next((name for name in own.values() if any(name in turn for turn in turns)), None)):
        raise BadField(f"{field}[].{names[others[0]]}", f"and {mixed} both occur, expected one of them")
    return messages.example(row, names | {"messages": field} | ({} if others else own))
