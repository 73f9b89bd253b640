"""Items of data.train and data.eval: a path or hub id, alone or with its weight, cap, epochs, split, licence, origin.

The shares decide the mixture; licence and origin only travel into reports and the model card.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, ValidationError

from distft.config.errors import did_you_mean, nearest
from distft.config.key import Count, Group, Positive, shown

MIXING = ("weight", "cap", "epochs")
RULES = {
    "weight": "a number above 0",
    "cap": "a whole number of at least 1",
    "epochs": "a number above 0",
}


class SourceItem(Group):
    """One source of rows."""

    path: str = Field(description="file, folder, pattern, URL or hub id")
    weight: Positive | None = Field(default=None, description="share of the training rows, relative to other weights")
    cap: Count | None = Field(default=None, description="rows to use at most, a sample by content")
    epochs: Positive | None = Field(default=None, description="times that each row is used; null: once")
    split: str | None = Field(default=None, description="split; null: data.split or data.eval_split")
    licence: str | None = Field(default=None, description="licence of the rows, for reports and the model card")
    origin: str | None = Field(default=None, description="where the rows come from, for reports and the model card")

    @property
    def mixing(self) -> list[float | int | None]:
        """Weight, cap and epochs."""
        return [getattr(self, name) for name in MIXING]


def source_items(value: Any) -> list[SourceItem]:
    """Returns the items of data.train or data.eval; none where it is a fraction or null."""
    if isinstance(value, str):
        return [SourceItem(path=value)]
    if not isinstance(value, list):
        return []
    return [SourceItem(**item) if isinstance(item, Mapping) else SourceItem(path=str(item)) for item in value]


def source_text(value: Any) -> Any:
    """Returns data.train or data.eval for a reader: `a.jsonl (licence MIT, epochs 2), b.jsonl`; others as they are."""
    items = source_items(value)
    if not any(isinstance(item, Mapping) for item in (value if isinstance(value, list) else ())):
        return value
    shown = []
    for item in items:
        options = [f"{name} {given}" for name, given in item.entries() if name != "path" and given is not None]
        shown.append(f"{item.path} ({', '.join(options)})" if options else item.path)
    return ", ".join(shown)


def path_of(item: Any) -> Any:
    """Returns the path of an item that may not be valid yet."""
    return item.get("path") if isinstance(item, Mapping) else item


def wrong_items(data: Mapping[str, Any]) -> Iterator[str]:
    """Yields an error for everything that is wrong with the items of data.train and data.eval."""
    for key in ("train", "eval"):
        value = data.get(key)
        if not isinstance(value, list):
            continue
        valid = True
        for number, item in enumerate(value):
            errors = list(_wrong_item(f"data.{key}[{number}]", item))
            valid = valid and not errors
            yield from errors
        if valid:
            yield from _wrong_together(f"data.{key}", source_items(value))


def _wrong_item(where: str, item: Any) -> Iterator[str]:
    if not isinstance(item, Mapping):
        if not isinstance(item, str) or not item:
            yield f"{where}={shown(item)}: an item is a path, or a mapping with a path. Try: {{path: FILE}}"
        return
    names = list(SourceItem.model_fields)
    for name in item:
        if name not in names:
            meant = "licence" if name == "license" else nearest(str(name), names)
            yield f"{where}.{name}: is not a key of a source.{did_you_mean(meant)} Allowed: {', '.join(names)}"
    known = {name: value for name, value in item.items() if name in names}
    try:
        SourceItem(**known)
    except ValidationError as error:
        for each in error.errors():
            name = str(each["loc"][0])
            if each["type"] == "missing":
                yield f"{where}: has no path. Try: {{path: FILE}}"
            else:
                yield f"{where}.{name}={shown(known[name])}: is not {RULES.get(name, 'a text')}"


def _wrong_together(key: str, items: list[SourceItem]) -> Iterator[str]:
    weighted = [number for number, item in enumerate(items) if item.weight is not None]
    if weighted and len(weighted) < len(items):
        other = next(number for number in range(len(items)) if number not in weighted)
        yield (
            f"{key}[{other}].weight=null: {len(weighted)} of {len(items)} items have a weight; either all have one or "
            "none. Try: weight: 1"
        )
    if key == "data.eval":
        for number, item in enumerate(items):
            for name in ("weight", "epochs"):
                if (value := getattr(item, name)) is not None:
                    yield (
                        f"{key}[{number}].{name}={shown(value)}: has no effect, since each held-out row counts once. "
                        "Try: cap, or leave it out"
                    )
