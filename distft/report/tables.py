"""Tables of the report: lines of name, text and source, from JSON files and from timed attempts."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from distft.goodput import Attempt
from distft.trackers.terminal import duration

_MIN_SHARE = 0.001  # of the wall time without idle time; smaller parts are summed


class Fact(NamedTuple):
    """A line of a table: its name, its text, and the source of the text, several separated by spaces."""

    name: str
    text: str
    source: str


Table = list[Fact]


def memory_by_kind(peak: float, counted: dict[str, int] | None) -> str:
    """Returns the peak memory of a process, split into parameters, gradients, optimizer state and the rest.

    peak: GiB. counted: planned bytes by kind; None without a plan.
    """
    text = f"{peak:.2f} GiB, measured"
    if counted is None or counted["host"]:
        return text
    kinds = {
        kind: counted[kind] / 2**30
        for kind in ("parameters", "gradients", "optimizer", "gathered")
        if kind in counted  # "gathered" is missing under ZeRO and in plans of older versions
    }
    rest = peak - sum(kinds.values())
    listed = ", ".join(f"{kind} {gib:.2f}" for kind, gib in kinds.items())
    return f"{text}: {listed} as planned, activations and others {rest:.2f}" if rest > 0 else text


@dataclass(frozen=True)
class Failed:
    """Why a run failed: a sentence, where, and the traceback; empty where unknown."""

    text: str
    facts: Table
    traceback: str


def failure_of(error: Mapping[str, Any] | str | None) -> Failed | None:
    """Returns the failure in `error` of status.json; None for a run that did not fail."""
    if not error:
        return None
    if isinstance(error, str):  # as older versions wrote it
        return Failed(error, [], "")
    rank, host, kind = error.get("rank"), error.get("host"), error.get("type")
    who = ("the run" if rank is None else f"rank {rank}") + f" on {host}" * bool(host)
    shown = {"where": error.get("where"), "log": error.get("log")}
    if error.get("time"):
        shown["time"] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(error["time"]))
    facts = [Fact(name, str(value), f"status.json#error.{name}") for name, value in shown.items() if value]
    text = ": ".join(filter(None, (who, kind, error.get("message", "").strip())))
    return Failed(text[0].upper() + text[1:], facts, error.get("traceback") or "")


def warnings_of(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Returns the warnings of a run by step. rows: of metrics.jsonl"""
    return [
        Fact(f"step {row['step']}", row["text"], f"metrics.jsonl#warning.{row['step']}.text")
        for row in rows
        if row["split"] == "warning"
    ]


def goodput_words(goodput: Mapping[str, Any]) -> Table:
    """Returns the lines of goodput.json: the parts by size, and the best interval between saves.

    Parts and goodput sum to 100% of the wall time without idle time, which is between an end and the next launch.
    """
    idle, failures = goodput["seconds"]["idle"], goodput["failures"]
    whole = goodput["wall_seconds"] - idle
    about = {"lost": f", {goodput['lost_steps']} steps", "checkpoint": f", {goodput['saves']} saves"}
    text = f"{goodput['goodput']:.1%} of {length(whole)}, {failures} failure{'s' * (failures != 1)}"
    sources = [f"goodput.json#{key}" for key in ("goodput", "wall_seconds", "failures")]
    lines = [Fact("goodput", text, " ".join(sources))]
    if hours := goodput.get("device_hours"):  # older versions did not count them
        lines.append(Fact("device-hours", f"{hours:.3g}", "goodput.json#device_hours"))
    parts = {part: seconds for part, seconds in goodput["seconds"].items() if part not in ("productive", "idle")}
    small = {part: seconds for part, seconds in parts.items() if seconds < _MIN_SHARE * whole}
    for part, seconds in sorted(parts.items(), key=lambda each: -each[1]):
        if part not in small:
            text = f"{seconds / whole:.1%}, {length(seconds)}{about.get(part, '')}"
            lines.append(Fact(f"time: {part}", text, f"goodput.json#seconds.{part}"))
    if (rest := sum(small.values())) >= _MIN_SHARE * whole > 0:
        source = " ".join(f"goodput.json#seconds.{part}" for part in small)
        lines.append(Fact("time: other", f"{rest / whole:.1%}, {length(rest)}", source))
    if idle >= 1:
        text = f"{length(idle)}, not included above"
        lines.append(Fact("without an attempt", text, "goodput.json#seconds.idle"))
    if every := goodput["best_every_steps"]:
        cost, between = goodput["checkpoint_seconds"], goodput["seconds_between_failures"]
        rule = f"by Young and Daly: {cost:.2g} s per save, a failure every {length(between)}"
        lines.append(Fact("best checkpoint.every_steps", f"{every}, {rule}", "goodput.json#best_every_steps"))
    return lines


def attempt_columns(attempt: Attempt) -> dict[str, str]:
    """Returns an attempt as text by column: its start, steps, processes, end, and what changed."""
    first, last = attempt.step, attempt.done
    steps = "" if first is None else f"{first} to {last}" if last is not None else f"from {first}"
    return {
        "attempt": str(attempt.number),
        "began": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.time)),
        "steps": steps,
        "processes": "" if attempt.world is None else str(attempt.world),
        "ended": (attempt.state or "").replace("_", " "),
        "changed": ", ".join(attempt.changed),
    }


def attempt_lines(attempts: Sequence[Attempt]) -> list[str]:
    """Returns a line for each attempt."""
    lines = []
    for each in map(attempt_columns, attempts):
        parts = [each["began"], f"steps {each['steps']}" * bool(each["steps"])]
        parts += [f"{each['processes']} process{'es' * (each['processes'] != '1')}" * bool(each["processes"])]
        parts += [each["ended"], f"changed: {each['changed']}" * bool(each["changed"])]
        lines.append(f"{each['attempt']}: {', '.join(filter(None, parts))}")
    return lines


def length(seconds: float) -> str:
    """Returns 9.3 s, 3m05s or 2h10m."""
    return duration(seconds) if seconds >= 60 else f"{seconds:.1f} s"


def flat(value: Any, file: str, path: str = "") -> Iterator[Fact]:
    """Yields each leaf of a JSON file with its path; a long list is shortened, with the number of omitted items.

    path: of the value, to leave out of the names.
    """
    yield from _leaves(value, "", f"{file}#{path}")


def _leaves(value: Any, name: str, source: str) -> Iterator[Fact]:
    if isinstance(value, dict):
        for key, inner in value.items():
            words_of_key = str(key) if str(key).isupper() else str(key).replace("_", " ")
            inner_source = f"{source}{'' if source.endswith('#') else '.'}{key}"
            yield from _leaves(inner, f"{name} · {words_of_key}" if name else words_of_key, inner_source)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for i, item in enumerate(value[:20]):
            one = isinstance(item, dict)
            text = ", ".join(f"{n} {text}" for n, text, _ in _leaves(item, "", source)) if one else words(item)
            yield Fact(name, text, f"{source}.{i}")
        if len(value) > 20:
            yield Fact(name, f"and {len(value) - 20:,} more", source)
    elif value is not None and value not in ([], ""):
        yield Fact(name, words(value), source)


def words(value: Any) -> str:
    """Formats a value for a reader."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(words, value))
    return str(value)
