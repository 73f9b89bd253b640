"""Sections and keys of a config: typed models, their fields as dotted keys with a rule in words, and which key wins.

A default never cuts what somebody requested. Whoever sets a key is ranked: default, experiment, own file, command line.

Trap: a bool is an int to Python, and a whole number is a valid float to a user; strict mode keeps the first apart, and
`Number` takes the second as it was written.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

Values = dict[str, Any]  # a config or a section of it as its YAML: each group has other keys and types
MISSING = "???"  # the value of a key that the user has to set, as Hydra writes it
Number = int | float
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Share = Annotated[Number, Field(ge=0, lt=1)]

NULL = type(None)
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    dict: "a mapping",
}
_BOUNDS = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}


class Group(BaseModel):
    """A section of a config: frozen, strict, without unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    def plain(self) -> Values:
        """Returns the section as nested dicts, as a YAML file holds it."""
        return {name: value.plain() if isinstance(value, Group) else value for name, value in self.entries()}

    def entries(self) -> Iterator[tuple[str, Any]]:
        """Yields name and value of every key."""
        yield from ((name, getattr(self, name)) for name in type(self).model_fields)


class Part(Group):
    """A section with a `_target_`: what is called, and its keywords.

    A keyword that was not set is not passed on, so the default of the constructor applies. Further keywords are
    allowed, for targets that are not distft's; `check` holds them to the signature.
    """

    model_config = ConfigDict(extra="allow")

    target: str | None = Field(default=None, alias="_target_")
    partial: bool = Field(default=False, alias="_partial_")

    def entries(self) -> Iterator[tuple[str, Any]]:
        for name, info in type(self).model_fields.items():
            if name in self.model_fields_set:
                yield info.alias or name, getattr(self, name)
        yield from (self.model_extra or {}).items()


@dataclass(frozen=True)
class _Kind:
    """One alternative of an annotation: a type with its bounds, its words or the example of its pattern."""

    type: type
    bounds: Mapping[str, float]  # "of at least" -> 1
    words: tuple[str, ...] = ()
    example: str = ""
    items: tuple[str, ...] = ()  # words allowed in a list; empty: anything


@dataclass(frozen=True)
class Key:
    """One key that a user can set: its annotation, and what it does in a line."""

    path: str
    annotation: Any = Any  # Any: nothing is known of its values
    help: str = ""
    default: Any = MISSING

    @cached_property
    def _kinds(self) -> list[_Kind]:
        kinds = list(_kinds_of(self.annotation))
        has_float = any(kind.type is float for kind in kinds)
        return [kind for kind in kinds if not (has_float and kind.type is int)]  # a Number

    @property
    def types(self) -> tuple[type, ...]:
        """The types of its values, NULL among them; empty where nothing is known."""
        return tuple(kind.type for kind in self._kinds)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words allowed when the value is text; empty: any text."""
        return tuple(word for kind in self._kinds for word in kind.words)

    @property
    def items(self) -> tuple[str, ...]:
        """The words allowed in a list; empty: anything."""
        return tuple(word for kind in self._kinds for word in kind.items)

    @property
    def example(self) -> str:
        """A text that matches its pattern; empty without a pattern."""
        return next((kind.example for kind in self._kinds if kind.example), "")

    @property
    def ends(self) -> list[tuple[str, float]]:
        """The closed bounds of a number: `("of at least", 1)`."""
        found = [bound for kind in self._kinds for bound in kind.bounds.items()]
        return [(word, bound) for word, bound in found if word in ("of at least", "of at most")]

    def rule(self) -> str:
        """Returns the rule in words: `a whole number of at least 1, or null`."""
        plain = [kind for kind in self._kinds if kind.type is not NULL and not kind.words and not kind.example]
        words = [
            _WORDS[kind.type]
            + _of(kind.items)
            + " and".join(f" {word} {bound:g}" for word, bound in kind.bounds.items())
            for kind in plain
        ]
        words += [*self.choices, *([self.example] if self.example else [])]
        text = " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
        return text + (", or null" if NULL in self.types else "")

    def fits(self, value: Any) -> bool:
        """Returns whether `value` has one of the types, is in range, and is one of the words."""
        try:
            self._adapter.validate_python(value)
        except ValidationError:
            return False
        return True

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.annotation, config=ConfigDict(strict=True))


def _kinds_of(annotation: Any, metadata: tuple[Any, ...] = ()) -> Iterator[_Kind]:
    """Yields the alternatives of an annotation, each with the constraints around it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return
    if origin is Annotated:
        yield from _kinds_of(arguments[0], (*metadata, *arguments[1:]))
    elif origin in (Union, UnionType):
        for each in arguments:
            yield from _kinds_of(each, metadata)
    elif origin is Literal:
        yield _Kind(str, {}, words=arguments)
    else:
        kind = origin or annotation
        items = get_args(arguments[0]) if kind is list and arguments and get_origin(arguments[0]) is Literal else ()
        yield _Kind(kind, _bounds(metadata) if kind in (int, float) else {}, example=_example(metadata), items=items)


def _of(words: tuple[str, ...]) -> str:
    return f" of {', '.join(words[:-1])} or {words[-1]}" if words else ""


def _bounds(metadata: tuple[Any, ...]) -> dict[str, float]:
    rules = [rule for each in metadata for rule in (each.metadata if isinstance(each, FieldInfo) else [each])]
    limits = {name: limit for rule in rules for name in _BOUNDS if (limit := getattr(rule, name, None)) is not None}
    return {word: limits[name] for name, word in _BOUNDS.items() if name in limits}


def _example(metadata: tuple[Any, ...]) -> str:
    return next((each.examples[0] for each in metadata if isinstance(each, FieldInfo) and each.examples), "")


def keys_of(section: type[Group], prefix: str = "") -> Iterator[Key]:
    """Yields every key of a section and of those inside it."""
    for name, info in section.model_fields.items():
        path = f"{prefix}{name}"
        if isinstance(info.annotation, type) and issubclass(info.annotation, Group):
            yield from keys_of(info.annotation, f"{path}.")
        elif info.description:
            around = [*info.metadata, *([Field(examples=info.examples)] if info.examples else [])]
            annotation: Any = info.annotation
            annotation = Annotated[annotation, *around] if around else annotation
            yield Key(path, annotation, info.description, info.get_default(call_default_factory=True))


def shown(value: Any) -> str:
    """Returns a value as the user would write it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def leaves(tree: Mapping[str, Any], whole: Collection[str] = (), prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted key and value of everything that is not a mapping; mappings named in `whole` are values."""
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and path not in whole:
            yield from leaves(value, whole, f"{path}.")
        else:
            yield path, value


def at(tree: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """Returns the value at a dotted key."""
    node: Any = tree
    for name in path.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return default
        node = node[name]
    return node


def with_value(tree: Mapping[str, Any], key: str, value: Any) -> Values:
    """Returns the tree with another value at a dotted key; `tree` stays as it is."""
    group, _, rest = key.partition(".")
    return {**tree, group: with_value(tree[group], rest, value) if rest else value}


def covers(groups: Iterable[str], key: str) -> bool:
    """Returns whether `key` is one of `groups` or is in one of them."""
    return any(key == group or key.startswith(f"{group}.") for group in groups)


DEFAULT, EXPERIMENT, FILE, COMMAND_LINE = range(4)  # who says a key, the strongest last
ANY, KEEP = object(), object()


@dataclass(frozen=True)
class Wins:
    """One row: `key`, said with a value, takes the place of `over` where a weaker hand says that."""

    key: str
    over: str
    becomes: Any = KEEP  # the value of `over` then; KEEP: it stays and has no effect
    value: Any = ANY  # of `key`, that the row is about; ANY: each but null
    together: bool = False  # both may be said, in a file or on the command line: the first that is reached counts


STEPS, MINUTES = "checkpoint.every_steps", "checkpoint.every_minutes"
PACKING, ROWS, TOKENS = "data.packing", "train.micro_batch_size", "train.micro_batch_tokens"
WINS = (
    Wins("train.max_steps", "train.epochs", None, together=True),
    Wins("train.epochs", "train.max_steps", None, together=True),
    Wins("train.global_batch_tokens", "train.global_batch_size"),
    Wins("train.global_batch_size", "train.global_batch_tokens", None),
    Wins(STEPS, MINUTES, None, together=True),
    Wins(MINUTES, STEPS, None, together=True),
    Wins(TOKENS, PACKING, True),
    Wins(TOKENS, ROWS),
    Wins(ROWS, PACKING, False),
    Wins(ROWS, TOKENS, None),
    Wins(PACKING, ROWS, value=True),
    Wins(PACKING, TOKENS, None, value=False),
)


@dataclass(frozen=True)
class Settled:
    """A config's values once every key that a stronger one overrides has given way."""

    values: Values
    given: frozenset[str]  # keys that somebody said and that count, and those that follow from them
    gave_way: dict[str, str]  # key -> the stronger key that overrides it


def settle(values: Mapping[str, Any], said: Mapping[str, int]) -> Settled:
    """Returns the values with the table applied; two keys of equal rank both stay, and rules refuse what clashes.

    said: the rank of whoever says each key; keys that are not in it are defaults.
    """
    tree, ranks, gave_way = dict(values), dict(said), dict[str, str]()
    for rank in (COMMAND_LINE, FILE, EXPERIMENT):
        for row in WINS:
            if ranks.get(row.key) == rank and _says(row, at(tree, row.key)) and _is_weaker(row, ranks, rank):
                if row.becomes is not KEEP and at(tree, row.over, MISSING) != row.becomes:
                    tree = with_value(tree, row.over, row.becomes)
                    gave_way[row.over] = row.key
                ranks.pop(row.over, None)
                if row.becomes is not None and row.becomes is not KEEP:
                    ranks[row.over] = rank  # it is said by saying `key`
    return Settled(tree, frozenset(ranks), gave_way)


def implied(given: Collection[str]) -> frozenset[str]:
    """Returns the keys with data.packing among them where a size of forwards is."""
    return frozenset(given) | ({PACKING} if {ROWS, TOKENS} & set(given) else frozenset())


def _says(row: Wins, value: Any) -> bool:
    return value not in (None, MISSING) if row.value is ANY else value is row.value


def _is_weaker(row: Wins, ranks: Mapping[str, int], rank: int) -> bool:
    other = ranks.get(row.over, DEFAULT)
    return min(other, FILE) < min(rank, FILE) if row.together else other < rank
