"""Two or more runs next to each other: what differs in what they were made of, and what came of it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from distft.config.freeze import changes, read_config
from distft.config.key import covers, leaves
from distft.report.compared import Line, names_of, results, settings
from distft.report.facts import gather
from distft.report.settings import PLACES
from distft.run import Plan, RunFolder, json_text, read_json

_BEST = " *"  # after a number; no color shows it in a file
_DETAILS = ("time: ", "tokens per forward", "peak memory")  # starts of lines that the page of a run has
_COMMIT = 10  # characters of a commit's hash


def comparison(runs: Sequence[RunFolder]) -> Table:
    """Returns a table with a column for each run: the settings that differ, held-out metrics, and what training took
    where that differs."""
    names, facts = names_of(runs), [gather(run) for run in runs]
    table = Table(title=f"{len(runs)} runs", title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(name, overflow="fold")
    metrics = {change.name for each in facts for change in each.changes}
    differing, found = list(settings(runs, names)), list(results(facts, names))
    for line in differing:
        _add(table, line)
    table.add_section()
    table.add_row("state", *(str(each.status["state"]).replace("_", " ") for each in facts))
    for line in found:
        if line.name in metrics or not (line.name.startswith(_DETAILS) or _is_same(line)):
            _add(table, line, "held-out " * (line.name in metrics))
    if any(line.best for line in found):
        table.caption = "*: the best of them"
    return table


def _is_same(line: Line) -> bool:
    return len({cell and cell.text for cell in line.cells}) == 1


def _add(table: Table, line: Line, what: str = "") -> None:
    cells = ["" if cell is None else str(cell.text) for cell in line.cells]
    table.add_row(what + line.name, *(text + _BEST * (i in line.best) for i, text in enumerate(cells)))


def difference(before: RunFolder, after: RunFolder) -> dict[str, list[str]]:
    """Returns all that two runs were made of differently, by kind, a line for each: `optimizer.lr: 0.0001 -> 0.0003`.

    Where they lie, and what came of them, is not compared.
    """
    one, other = read_config(before), read_config(after)
    lines = changes(one.values, other.values, one.choices, other.choices)
    found = {
        "settings": [line for line in lines if not covers(PLACES, line.partition(":")[0])],
        "content": list(_content(before.read_plan(), after.read_plan())),
        "environment": list(_environment(_read(before), _read(after))),
    }
    return {kind: lines for kind, lines in found.items() if lines}


def _content(one: Plan, other: Plan) -> Iterator[str]:
    """Yields what is behind the paths: rows and weights may differ where the config does not."""
    if one.reads.get("data") != other.reads.get("data"):
        rows = f"{one.rows:,} -> {other.rows:,}" if one.rows != other.rows else f"{one.rows:,}, of other content"
        yield f"training rows: {rows}"
    if one.model_hash != other.model_hash:
        yield f"weights of the base model: {_hash(one.model_hash)} -> {_hash(other.model_hash)}"
    if one.world != other.world:
        yield f"processes: {one.world} -> {other.world}"
    if one.steps != other.steps:
        yield f"steps: {one.steps:,} -> {other.steps:,}"


def _hash(text: str | None) -> str:
    return text[:_COMMIT] if text else "a random instance"


def _read(run: RunFolder) -> Mapping[str, Any]:
    return read_json(run.environment) if run.environment.is_file() else {}


def _environment(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    """Yields what differs of code, machine, packages and variables; of a file that is missing nothing is known."""
    if not one or not other:
        return
    if (code := _code(one)) != (now := _code(other)):
        yield f"commit of distft: {code} -> {now}"
    for name in ("host", "platform", "python"):
        if one.get(name) != other.get(name):
            yield f"{name}: {one.get(name)} -> {other.get(name)}"
    for group in ("hardware", "packages", "variables"):
        old, new = dict(leaves(one.get(group) or {})), dict(leaves(other.get(group) or {}))
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                yield f"{name}: {_side(old, name)} -> {_side(new, name)}"


def _code(environment: Mapping[str, Any]) -> str:
    git = environment.get("git")
    return f"{git['commit'][:_COMMIT]}{' with changes' * git['changed']}" if git else "not known"


def _side(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "none"
    return values[name] if isinstance(values[name], str) else json_text(values[name])
