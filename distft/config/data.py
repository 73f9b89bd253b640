"""The group `data`: the rows that are trained and evaluated on, and the items of data.train and data.eval.

An item is a path or hub id, alone or with its weight, cap, epochs, split, licence, origin. The shares decide the
mixture; licence and origin only travel into reports and the model card.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from distft.config.errors import did_you_mean, nearest
from distft.config.key import MISSING, Count, Fraction, Group, Index, Number, Positive, shown

_FORMATS = sorted(file.stem for file in (Path(__file__).parents[1] / "data" / "formats").glob("[!_]*.py"))
if TYPE_CHECKING:
    Format = str
else:
    Format = Literal[("auto", *_FORMATS)]


class Data(Group):
    """The rows that are trained and evaluated on."""

    train: str | list[Any] = Field(default=MISSING, description="training rows: file, list of files, folder or hub id")
    eval: str | list[Any] | Annotated[Number, Field(gt=0, lt=1)] | None = Field(
        default=0.05, description="held-out rows: the same, or a fraction to hold out"
    )
    split: str | None = Field(default=None, description="split of a hub id or folder; null: train")
    eval_split: str | None = Field(
        default=None, description="the same for data.eval; null: validation, or test in a folder without"
    )
    subset: str | None = Field(default=None, description="configuration of a hub id")
    revision: str | None = Field(default=None, description="commit, tag or branch of a hub id; null: the newest")
    split_seed: Index = Field(default=0, description="decides which rows a fraction holds out")
    overlap: Literal["auto", "warn", "drop", "stop"] = Field(
        default="auto",
        description="what to do with training rows that are in data.eval too, or that clean.leakage finds; drop: from "
        "training; stop: refuse the launch; auto: drop with clean.leakage, else warn",
    )
    format: Format = Field(default="auto", description="what a row is; auto: detected from its fields")
    # the user's names; wrong values are reported with the rows
    fields: dict[str, Any] = Field(default={}, description="the names your rows use, e.g. {prompt: question}")
    ignore_fields: list[Any] = Field(
        default=[],
        description="fields of rows and messages that count as absent; every other one that nothing reads is an error",
    )
    max_length: Annotated[int, Field(ge=2)] = Field(
        default=1024, description="tokens of a row; longer ones are cut and counted"
    )
    chat_template: str = Field(default="auto", description="auto: the model's own; none: plain text; or a .jinja file")
    seed_date: Annotated[str, Field(pattern=r"^(?:\d{4}-\d\d-\d\d)$", examples=["2024-07-26"])] = Field(
        default="2024-07-26",
        description="the day that a chat template which prints today's date takes for today, YYYY-MM-DD",
    )
    truncate: Literal["cut", "drop", "split", "drop_turns"] = Field(
        default="cut",
        description="rows longer than max_length. cut: their first tokens; drop: left out; split: several rows; "
        "drop_turns: without their oldest turns, then cut",
    )
    prompt_template: str | None = Field(
        default=None,
        description="Jinja over the columns of a row that gives its prompt, or its text where it has no completion: "
        "text, or a .jinja file",
    )
    train_on: Literal["all", "last", "assistant"] = Field(
        default="assistant",
        description="assistant: every answer that is not marked `train: false`; last: the last answer of a row; all: "
        "prompts too",
    )
    train_reasoning: bool = Field(
        default=True, description="train on the reasoning of an answer; false: it is read, and what follows is trained"
    )
    packing: bool = Field(
        default=True, description="cut a step into forwards by tokens; false: by rows, as train.micro_batch_size says"
    )
    shards: list[Any] | None = Field(default=None, description="numbers of the prepared shards to train on; null: all")
    num_proc: Count | None = Field(
        default=None,
        description="processes that prepare the rows; null: one per core that this process may use, at most 32. The "
        "rows are the same for any number",
    )
    max_bad_fraction: Fraction = Field(
        default=0.01, description="bad rows above this fraction stop the run before it starts"
    )
    max_truncated_fraction: Fraction = Field(
        default=0.5, description="cut rows above this fraction stop the run before it starts"
    )
    max_untrained_fraction: Fraction = Field(
        default=1.0,
        description="rows without a token to train on, which are left out; above this fraction they stop the run",
    )


MIXING = ("weight", "cap", "epochs")
_ITEM_RULES = {
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
                yield f"{where}.{name}={shown(known[name])}: is not {_ITEM_RULES.get(name, 'a text')}"


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
