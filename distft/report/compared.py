"""What differs between the settings of several runs, and what came of each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from distft.config.freeze import read_config
from distft.config.key import leaves
from distft.report.facts import Facts, gather
from distft.report.settings import PLACES
from distft.report.tables import Fact
from distft.run import RunFolder, json_text, read_json
from distft.tasks.selection import goal_of


@dataclass(frozen=True)
class Line:
    """A line of a table with a cell for each run; `best` are the numbers of the best cells."""

    name: str
    cells: tuple[Fact | None, ...]
    best: frozenset[int] = frozenset()


def names_of(runs: Sequence[RunFolder]) -> list[str]:
    """Returns a name for each run: the folder's, with the one above it where two are equal."""
    short = [run.path.name for run in runs]
    long = [f"{run.path.parent.name}/{run.path.name}" for run in runs]
    return [name if short.count(name) == 1 else other for name, other in zip(short, long, strict=True)]


def settings(runs: Sequence[RunFolder], names: Sequence[str]) -> Iterator[Line]:
    """Yields the keys in which the frozen configs differ; of a class the word that chose it."""
    trees = []
    for config in map(read_config, runs):
        tree = dict(leaves(config.values))
        for key in [key for key in tree if key.endswith("._target_")]:
            target, group = tree.pop(key), key.removesuffix("._target_")
            tree = {group: config.choices.get(group, target)} | tree
        trees.append(tree)
    for key in dict.fromkeys(key for tree in trees for key in tree):
        values = [json_text(tree[key]) if key in tree else "" for tree in trees]
        if len(set(values)) > 1 and key not in PLACES:
            cells = (Fact(key, value, f"{name}/config.yaml#{key}") for name, value in zip(names, values, strict=True))
            yield Line(key, tuple(cells))


def results(facts: Sequence[Facts], names: Sequence[str]) -> Iterator[Line]:
    """Yields held-out metrics of the last evaluation, then what training took."""
    cells: list[Fact | None]
    for metric in dict.fromkeys(change.name for each in facts for change in each.changes):
        cells, values = [], []
        for each, name in zip(facts, names, strict=True):
            change = next((change for change in each.changes if change.name == metric), None)
            values.append(change.after if change else None)
            text = f"{change.before:.4g} → {change.after:.4g}" if change else ""
            cells.append(Fact(metric, text, source_of(name, " ".join(change.sources))) if change else None)
        yield Line(metric, tuple(cells), _best(values, goal_of(metric, "auto") == "minimize"))
    for title in dict.fromkeys(fact.name for each in facts for fact in each.numbers + each.goodput):
        found = [next((fact for fact in each.numbers + each.goodput if fact.name == title), None) for each in facts]
        cells = [
            fact and fact._replace(source=source_of(name, fact.source)) for fact, name in zip(found, names, strict=True)
        ]
        yield Line(title, tuple(cells))


def source_of(name: str, sources: str) -> str:
    return " ".join(f"{name}/{source}" for source in sources.split())


def _best(values: Sequence[float | None], lower: bool) -> frozenset[int]:
    known = [value for value in values if value is not None]
    if len(set(known)) < 2:
        return frozenset()
    best = min(known) if lower else max(known)
    return frozenset(i for i, value in enumerate(values) if value == best)


class Compared(TypedDict):
    """One run as JSON, next to others."""

    run: str
    state: str | None
    step: int
    settings: Mapping[str, Any]  # keys that differ between the runs
    metrics: Mapping[str, Mapping[str, float]]  # name -> before and after training, on the held-out rows
    device_hours: float | None


def as_json(runs: Sequence[RunFolder]) -> list[Compared]:
    """Returns for each run its settings that differ from another's, and its results."""
    names, facts = names_of(runs), [gather(run) for run in runs]
    keys = [line.name for line in settings(runs, names)]
    return [_one(run, each, keys) for run, each in zip(runs, facts, strict=True)]


def _one(run: RunFolder, facts: Facts, keys: Sequence[str]) -> Compared:
    config = read_config(run)
    tree = {**dict(leaves(config.values)), **config.choices}
    goodput = read_json(run.goodput) if run.goodput.is_file() else {}
    return {
        "run": str(run.path),
        "state": facts.status["state"],
        "step": facts.status["step"],
        "settings": {key: tree.get(key) for key in keys},
        "metrics": {change.name: {"before": change.before, "after": change.after} for change in facts.changes},
        "device_hours": goodput.get("device_hours"),
    }
