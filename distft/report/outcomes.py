"""Results of the programs that run after training, as tables: evaluation, human evaluation, audit.

Each writes one JSON file into the run folder, whose form docs fix; the page shows what is there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distft.report.tables import Fact, flat
from distft.run import RunFolder, read_json

HUMAN = ("win_rate", "counts", "agreement", "self_agreement", "biases", "attention")  # shown of a study's analysis.json


@dataclass(frozen=True)
class Measure:
    """A measured value with its interval or error, and what it is compared with. Texts are ready to be shown."""

    name: str
    value: str
    error: str
    n: str
    difference: str
    source: str
    flag: bool = False
    limits: str = ""


@dataclass(frozen=True)
class Outcome:
    """The result of one program."""

    title: str
    about: str
    measures: tuple[Measure, ...]
    file: str
    facts: tuple[Fact, ...] = ()
    slices: tuple[Measure, ...] = ()


def outcomes(run: RunFolder) -> list[Outcome]:
    """Returns the results that lie in the run folder."""
    found = [_evaluation(file, run.path) for file in sorted(run.eval.rglob("metrics.json"))]
    audit, human = run.path / "audit" / "audit.json", run.path / "human"
    found += [_audit(audit, run.path)] if audit.is_file() else []
    found += [_human(file, run.path) for file in sorted(human.rglob("analysis.json"))]
    return found


def _evaluation(file: Path, run: Path) -> Outcome:
    found, name = read_json(file), _name(file, run)
    place = file.parent.relative_to(run / "eval").as_posix()
    measures = list(_metrics(found.get("metrics", {}), f"{name}#metrics", ""))
    for task, values in (found.get("benchmarks") or {}).items():
        measures += _metrics(values["metrics"], f"{name}#benchmarks.{task}.metrics", f"{task}/", values.get("n"))
    for i, measure in enumerate(measures):
        if other := found.get("against", {}).get(measure.name):
            measures[i] = _against(measure, other)
    measures += _judge(found.get("judge") or {}, f"{name}#judge")
    slices: list[Measure] = []
    for column, values in found.get("slices", {}).items():
        for value, metrics in values.items():
            title = f"{column}={value}: "
            few = ", few items" if metrics.get("few") else ""
            of_slice = _metrics(metrics.get("metrics", metrics), f"{name}#slices.{column}.{value}", title)
            slices += [
                replace(each, n=each.n + few) for each in of_slice if not each.name.startswith(f"{title}answer_")
            ]
    about = f"{found.get('rows', 0):,} rows at step {found.get('step')}"
    if model := found.get("against_model"):
        about += f", compared with {model['name']} on {model['matched']:,} items in common"
    notes = [f". {note[:1].upper()}{note[1:]}" for note in found.get("notes") or ()]
    return Outcome(f"Evaluation: {place}", about + "".join(notes), tuple(measures), name, slices=tuple(slices))


def _metrics(metrics: Mapping[str, Any], source: str, title: str, n: int | None = None) -> Iterator[Measure]:
    for metric, found in metrics.items():
        if not isinstance(found, Mapping) or found.get("value") is None:
            continue
        error, count = found.get("stderr"), found.get("n") or n
        yield Measure(
            f"{title}{metric}",
            f"{found['value']:.4g}",
            _interval(found) or ("" if error is None else f"± {error:.2g}"),
            f"{count:,}" if count else "",
            "",
            f"{source}.{metric}",
        )


def _judge(found: Mapping[str, Any], source: str) -> Iterator[Measure]:
    """Yields the win rate of a comparison by a judge."""
    rate = found.get("win_rate")
    if rate is None:
        return
    how = f"{found['ties']:,} ties, {found['orders_disagree']:,} of them since the orders disagree"
    title = f"win rate by judge {found['settings']['judge']}"
    text = f"p {found['p']:.2g}: {found['verdict']}" if found.get("p") is not None else ""
    value, count = f"{rate['value']:.4g}", f"{found['n']:,}"
    yield Measure(title, value, _interval(rate), count, text, f"{source}.win_rate", False, how)


def _against(measure: Measure, other: Mapping[str, Any]) -> Measure:
    """Returns the measure with its paired difference, and what that shows."""
    text = f"{other['difference']:+.3g}"
    if other.get("low") is not None:
        text += f" ({other['low']:.3g} to {other['high']:.3g}"
        text += f", p {other['p']:.2g})" if other.get("p") is not None else ")"
    text += f": {other['verdict']}" if other.get("verdict") else ""
    return replace(measure, difference=text)


def _audit(file: Path, run: Path) -> Outcome:
    name = _name(file, run)
    measures = [
        Measure(
            " ".join(filter(None, (f"{row['axis']}: {row['measure']}", row.get("group"), _part(row)))),
            _number(row.get("tuned")),
            _interval(row),
            f"{row['n']:,}" if row.get("n") else "",
            f"base {_number(row.get('base'))}" if row.get("base") is not None else "",
            f"{name}#{i}",
            bool(row.get("flag")),
            row.get("limits") or "",
        )
        for i, row in enumerate(read_json(file))
    ]
    flags = sum(measure.flag for measure in measures)
    return Outcome("Audit", f"{flags:,} of {len(measures):,} measures are flagged", tuple(measures), name)


def _part(row: Mapping[str, Any]) -> str:
    """Returns the part of the data that a measure is about; empty for all."""
    return "" if row.get("where", "all") == "all" else f"({row['where']})"


def _human(file: Path, run: Path) -> Outcome:
    """Returns the conclusions of a study, its comparisons, and the numbers about its quality."""
    name, found = _name(file, run), read_json(file)
    facts = tuple(flat({key: found[key] for key in HUMAN if key in found}, name))
    measures = [
        Measure(
            f"win rate of {each['a']} against {each['b']}",
            _number(each["win_rate"]["value"]),
            _interval(each["win_rate"]),
            f"{each['votes']:,}",
            f"p {each['p_holm']:.2g}",
            f"{name}#comparisons.{i}",
        )
        for i, each in enumerate(found.get("comparisons", []))
    ]
    measures += [
        Measure(
            f"{each['criterion']}: {each['a']} minus {each['b']}",
            f"{each['value']:+.3g}",
            _interval(each),
            "",
            "",
            f"{name}#differences.{i}",
        )
        for i, each in enumerate(found.get("differences", []))
    ]
    study = file.parent.relative_to(run / "human").as_posix()
    title = f"Human evaluation{'' if study == '.' else f': {study}'}"
    return Outcome(title, ". ".join(found.get("conclusions", [])), tuple(measures), name, facts)


def _interval(row: Mapping[str, Any]) -> str:
    return f"{_number(row['low'])} to {_number(row['high'])}" if row.get("low") is not None else ""


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _name(file: Path, run: Path) -> str:
    return file.relative_to(run).as_posix()
