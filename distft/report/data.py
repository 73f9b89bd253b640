"""Report of prepared data: data.json, its page data.html, and the gates that a preparation must pass.

All of it comes from the prepared folder: report.json, cleaning.json, dropped.jsonl and the shards.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from distft.config import Config
from distft.config.data import source_items
from distft.data.packing import MicroBatching
from distft.data.shards import Rows
from distft.data.statistics import percentile, truncation
from distft.report.data_card import README, data_card
from distft.run import read_json, write_json

BARS = 24  # of the histogram of lengths
TRIED_LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
PACKED_STEPS = 50  # whose packing is measured
RATES = ("bad_rows", "truncated", "untrained", "dropped", "leakage", "duplicates")  # gates next to the rules' names
DUPLICATES = ("exact_duplicates", "near_duplicates")
CLEANING = "cleaning.json"
DROPPED = "dropped.jsonl"


class RowCounts(TypedDict):
    """Rows of data.train by what became of them; read: of each stream."""

    read: Mapping[str, int]
    bad: int
    dropped: int
    untrained: int
    truncated: int
    overlap: int
    tokens_per_character: float


class RuleFacts(TypedDict):
    """What a cleaning rule found; share: of the training rows."""

    name: str
    action: str
    found: int
    dropped: int
    labels: Mapping[str, int]
    examples: Sequence[Mapping[str, object]]
    share: float


class DataFacts(TypedDict):
    """data.json. Pairs are a value and its rows."""

    name: str
    key: str
    rows: RowCounts
    splits: Mapping[str, Mapping[str, int]]
    notes: Sequence[str]
    rules: Sequence[RuleFacts]
    languages: Sequence[tuple[str, int]]
    labels: Sequence[Sequence[object]]
    sources: Sequence[Sequence[object]]
    licences: Sequence[tuple[str, int]]
    longest: Sequence[Sequence[object]]  # tokens and FILE:LINE
    worst: Sequence[Mapping[str, object]]
    lengths: Mapping[str, object]  # empty without rows, as `packing`
    packing: Mapping[str, object]
    gates: Mapping[str, float]
    timing: Mapping[str, object]


def gather(folder: Path, config: Config) -> DataFacts:
    """Returns the facts of prepared data. config: that it was prepared for."""
    report = read_json(folder / "report.json")
    cleaning = _json(folder / CLEANING)
    streams = report["streams"]
    train = streams["train"]
    rules = [
        RuleFacts(name=name, **found, share=_share(found["found"], train["read"]))
        for name, found in cleaning.get("rules", {}).items()
    ]
    statistics = cleaning.get("statistics", {})
    lengths = {int(length): count for length, count in statistics.get("lengths", [])}
    labels = statistics.get("labels", [])
    labelled, usable = sum(count for _, count in labels), sum(lengths.values())
    language = next((rule["labels"] for rule in rules if rule["name"] == "language"), {})
    return {
        "name": _name(config),
        "key": folder.name,
        "rows": {
            "read": {name: stream["read"] for name, stream in streams.items()},
            "bad": train["bad"],
            "dropped": train.get("dropped", 0),
            "untrained": train["untrained"],
            "truncated": train["truncated"],
            "overlap": train["overlap"],
            "tokens_per_character": _share(train.get("tokens", 0), train.get("characters", 0)),
        },
        "splits": report["splits"],
        "notes": report.get("notes", []),
        "rules": rules,
        "languages": sorted(language.items(), key=lambda each: (-each[1], each[0])),
        "labels": labels if usable and labelled >= 0.5 * usable else [],
        "sources": statistics.get("sources", []),
        "licences": _licences(config, cleaning.get("items", {}), dict(statistics.get("licences", ()))),
        "longest": statistics.get("longest", []),
        "worst": cleaning.get("worst", []),
        "lengths": _lengths(lengths, config.data.max_length),
        "packing": _packing(folder, config),
        "gates": _gates(streams, rules),
        "timing": {"seconds": report["seconds"], "rules": _json(folder / "timing.json")},
    }


def _json(path: Path) -> Mapping[str, Any]:
    """Returns the JSON of a file; empty in data that a version without it prepared."""
    return read_json(path) if path.is_file() else {}


def _name(config: Config) -> str:
    """Returns the name of the first source, and how many there are."""
    names = [item.path.rstrip("/") for item in source_items(config.data.train)]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0].rpartition('/')[2]}{more}"


def _licences(config: Config, rows: Mapping[str, int], named: Mapping[str, int]) -> list[tuple[str, int]]:
    """Returns the rows under each licence, as the items of data.train name them, else the rows themselves; empty where
    nothing names one. rows: item number -> rows. named: licence -> rows that name it."""
    items = source_items(config.data.train)
    counts: Counter[str] = Counter()
    if any(item.licence for item in items):
        for number, count in rows.items():
            counts[items[int(number)].licence or "not stated"] += count
    elif named:
        counts.update(named)
        counts["not stated"] = sum(rows.values()) - sum(named.values())
    return [(name, count) for name, count in counts.most_common() if count]


def _share(count: int, total: int) -> float:
    return count / total if total else 0.0


def _lengths(lengths: Mapping[int, int], max_length: int) -> Mapping[str, object]:
    if not lengths:
        return {}
    rows, tokens = sum(lengths.values()), sum(length * count for length, count in lengths.items())
    tried = sorted({max_length, *(length for length in TRIED_LENGTHS if length < 2 * max(lengths))})
    return {
        "rows": rows,
        "tokens": tokens,
        "percentiles": {f"p{round(100 * share)}": percentile(lengths, share) for share in (0.5, 0.9, 0.99, 1.0)},
        "histogram": _histogram(lengths),
        "max_length": max_length,
        "truncation": [truncation(lengths, length) for length in tried],
    }


def _histogram(lengths: Mapping[int, int]) -> list[dict[str, int]]:
    """Returns bars of equal width on a log scale: the least and the largest length, and the rows."""
    values, counts = np.array(list(lengths)), np.array(list(lengths.values()))
    borders = np.unique(np.geomspace(max(1, values.min()), values.max() + 1, BARS + 1).round().astype(int))
    place = np.searchsorted(borders, values, side="right") - 1
    return [
        {"least": int(borders[i]), "most": int(borders[i + 1]) - 1, "rows": int(counts[place == i].sum())}
        for i in range(len(borders) - 1)
    ]


def _packing(folder: Path, config: Config) -> Mapping[str, object]:
    """Returns how full forwards are with packing and without, over the first steps in the order of the shards."""
    lengths = Rows(folder, "train").lengths.astype(np.int64)
    train = config.train
    rows, tokens = train.micro_batch_size, train.micro_batch_tokens
    step, per_forward = train.global_batch_size or 32, rows if isinstance(rows, int) else 1
    capacity = tokens if isinstance(tokens, int) else config.data.max_length
    some = np.arange(min(len(lengths), PACKED_STEPS * step))
    if not len(some) or lengths.max() > capacity:
        return {}
    batching = MicroBatching(lengths, capacity, lengths.astype(np.float64))
    steps = [some[start : start + step] for start in range(0, len(some), step)]
    packed = sum(len(batching.micro_batches(rows, 1)) for rows in steps)
    tokens = int(lengths[some].sum())
    forwards = [some[start : start + per_forward] for start in range(0, len(some), per_forward)]
    padded = sum(int(lengths[rows].max()) * len(rows) for rows in forwards)
    return {
        "rows": len(some),
        "tokens_per_forward": capacity,
        "packed": _share(tokens, packed * capacity),
        "rows_per_forward": per_forward,
        "padded": _share(tokens, padded),
    }


def _gates(streams: Mapping[str, Any], rules: Sequence[RuleFacts]) -> dict[str, float]:
    """Returns what `fail_on` compares: shares of the training rows, bad rows of all streams."""
    train, read = streams["train"], streams["train"]["read"]
    found = {rule["name"]: rule["share"] for rule in rules}
    total, bad = (sum(stream[name] for stream in streams.values()) for name in ("read", "bad"))
    return found | {
        "bad_rows": _share(bad, total),
        "truncated": _share(train["truncated"], read),
        "untrained": _share(train["untrained"], read),
        "dropped": _share(train.get("dropped", 0), read),
        "leakage": _share(train["overlap"], read),
        "duplicates": sum(found.get(name, 0.0) for name in DUPLICATES),
    }


def closed_gates(facts: DataFacts, limits: Mapping[str, float]) -> list[str]:
    """Returns a line for each gate that the data do not pass. limits: gate -> largest share allowed."""
    lines = []
    for name, limit in limits.items():
        share = facts["gates"].get(name, 0.0)
        if share > limit:
            lines.append(f"fail_on.{name}={limit:g}: the share is {share:.4g} of the rows")
    return lines


def write(folder: Path, facts: DataFacts, out: Path) -> None:
    """Writes data.html, data.json and the data card README.md, and copies dropped.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "data.json", facts)
    (out / "data.html").write_text(render(facts), encoding="utf-8", errors="backslashreplace")
    (out / README).write_text(data_card(out), encoding="utf-8")
    if (folder / DROPPED).is_file():
        shutil.copyfile(folder / DROPPED, out / DROPPED)
    else:  # prepared by a version that did not list them
        (out / DROPPED).write_text("")


def _percent(share: float) -> str:
    return f"{100 * share:.{1 if share >= 0.001 else 3}f} %" if share else "0 %"


def render(facts: DataFacts) -> str:
    """Returns the page; every text of the data is escaped, and nothing is fetched or runs."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("distft.report", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.get_template("data.html.jinja").render(facts=facts)
