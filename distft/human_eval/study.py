"""A study on disk: its settings, the blind items, and the key that the server never opens."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from distft.config.errors import ConfigError, did_you_mean, nearest
from distft.paths import absolute
from distft.run import json_text, read_json, write_json

VERSION = 1
CHOICES = ("a", "b", "tie", "both_bad", "skip")  # a: the first answer on the page
SCALE = (1, 2, 3, 4, 5)  # of a rating: worst to best
Kind = Literal["practice", "main", "attention", "repeat", "swap"]


@dataclass(frozen=True)
class Turn:
    """A message of a prompt, as the page shows it."""

    role: str
    text: str


@dataclass(frozen=True)
class Item:
    """What a rater sees: a prompt with two answers, or with one to rate. The order of the answers was drawn."""

    id: str
    prompt: tuple[Turn, ...]
    answers: tuple[str, ...]
    expected: str = ""  # a or b: of a practice item or an attention check, before any swap
    why: str = ""  # shown after a practice item


@dataclass(frozen=True)
class Settings:
    """What was fixed when the study was created."""

    title: str
    type: str  # pairwise or rating
    seed: int
    raters: int
    overlap: int  # raters per item
    criteria: tuple[str, ...]
    reasons: tuple[str, ...]
    consent: str  # Markdown, shown verbatim
    instructions: str
    contact: str
    pay: str
    ethics: str
    min_attention: float  # raters below this share of passed checks are excluded
    min_seconds: float  # faster votes are excluded
    planned_votes: int  # without practice, checks and repeats
    items_sha256: str
    created: str  # UTC, ISO 8601
    distft: str
    version: int = VERSION


@dataclass(frozen=True)
class System:
    """One side of a study. answers: file in the study's folder with its prompts and completions."""

    name: str
    answers: str
    sha256: str
    run: str | None = None  # folder of the run; None: the answers came as a file
    at: str | None = None
    command: tuple[str, ...] = ()  # that generated them


@dataclass(frozen=True)
class Key:
    """Which system wrote which answer. items: id -> (row in the answers' files, the system of each answer)."""

    systems: tuple[System, ...]
    items: Mapping[str, tuple[int, tuple[int, ...]]]
    categories: Mapping[str, str] = field(default_factory=dict)  # item id -> the slice it belongs to


@dataclass(frozen=True)
class Study:
    """The files of a study, by name."""

    path: Path

    @property
    def settings_file(self) -> Path:
        return self.path / "study.json"

    @property
    def items_file(self) -> Path:
        return self.path / "items.jsonl"

    @property
    def key_file(self) -> Path:
        return self.path / "key.json"

    @property
    def links_file(self) -> Path:
        return self.path / "links.json"

    @property
    def votes_file(self) -> Path:
        return self.path / "votes.sqlite"

    @property
    def analysis_file(self) -> Path:
        return self.path / "analysis.json"

    @property
    def looks_file(self) -> Path:
        """The analyses made so far: each is a look at the key."""
        return self.path / "looks.json"

    def read_settings(self) -> Settings:
        values = read_json(self.settings_file)
        lists = {name: tuple(values[name]) for name in ("criteria", "reasons")}
        return Settings(**values | lists)

    def write_settings(self, settings: Settings) -> None:
        write_json(self.settings_file, asdict(settings))

    def read_items(self) -> list[Item]:
        """Returns the blind items; RuntimeError when the file is not the one that was drawn."""
        data = self.items_file.read_bytes()
        if digest(data) != self.read_settings().items_sha256:
            raise RuntimeError(f"{self.items_file} changed since the study was created. Try: restore it")
        return [_item(json.loads(line)) for line in data.splitlines()]

    def write_items(self, items: Sequence[Item]) -> str:
        """Writes the blind items; returns their SHA-256."""
        text = "".join(json_text(asdict(item), ensure_ascii=False) + "\n" for item in items)
        self.items_file.write_text(text, encoding="utf-8")
        return digest(text.encode())

    def read_key(self) -> Key:
        values = read_json(self.key_file)
        systems = tuple(System(**each | {"command": tuple(each["command"])}) for each in values["systems"])
        items = {item: (row, tuple(sides)) for item, (row, sides) in values["items"].items()}
        return Key(systems, items, values["categories"])

    def write_key(self, key: Key) -> None:
        write_json(self.key_file, asdict(key))


def _item(values: Mapping[str, object]) -> Item:
    turns = tuple(Turn(**turn) for turn in values["prompt"])  # pyright: ignore[reportGeneralTypeIssues]  # as written
    return Item(**{**values, "prompt": turns, "answers": tuple(values["answers"])})  # pyright: ignore  # as written


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def find_study(value: str) -> Study:
    """Returns the study at `value`; ConfigError with the nearest one next to it when there is none."""
    study = Study(absolute(value))
    missing = [file.name for file in (study.settings_file, study.items_file, study.votes_file) if not file.is_file()]
    if not missing:
        return study
    parent = study.path.parent
    others = [file.parent.name for file in parent.glob("*/study.json")] if parent.is_dir() else []
    near = nearest(study.path.name, others)
    hint = did_you_mean(str(parent / near) if near else None) or " Try: distft human_eval create study=DIR ..."
    raise ConfigError([f"study={value}: holds no study ({', '.join(missing)} missing).{hint}"])
