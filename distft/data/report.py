"""Report of a data preparation: a summary of report.json, and its thresholds for skipped and truncated rows.

Plan and launch use it too, so it imports no heavy library.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distft.config.data import Data

Counters = Mapping[str, int]  # of a stream or split in report.json; a list, `first_bad`, is not read here


def refused(report: Mapping[str, Any], data: Data) -> list[str]:
    """Returns an error message for each threshold of `data` that the counts exceed; empty if training may start."""
    reasons = []
    for name, stream in report["streams"].items():
        good = stream["read"] - stream["bad"]
        for key, count, total, what in (
            ("max_bad_fraction", stream["bad"], stream["read"], "are bad"),
            ("max_truncated_fraction", _too_long(stream), good, _cut(stream, data)),
            ("max_untrained_fraction", stream["untrained"], good, "have no token to train on"),
        ):
            if total and count / total > getattr(data, key):
                reason = f"data.{key}={getattr(data, key)}: {count} of {total} rows of data.{name} {what}"
                reasons.append(reason + _regardless(key, count, total, report["splits"]))
        if stream["overlap"] and data.overlap == "stop":
            reasons.append(
                f"data.overlap=stop: {stream['overlap']} rows of data.{name} are also held out. "
                "Try: data.overlap=drop, which leaves them out of training"
            )
    empty = [name for name, split in report["splits"].items() if not split["rows"]]
    return reasons + [_empty(name, report["streams"], data) for name in empty]


def _too_long(stream: Counters) -> int:
    """Returns the rows that lose tokens to data.max_length."""
    return stream["truncated"] + stream.get("too_long", 0)


def _cut(stream: Counters, data: Data) -> str:
    longest = f"the longest has {stream['longest']} tokens"
    lost = "left out" if stream.get("too_long") else "cut"
    return f"are longer than data.max_length={data.max_length} ({longest}) and would be {lost}"


def _regardless(key: str, count: int, total: int, splits: Mapping[str, Counters]) -> str:
    """Returns advice with the threshold that accepts these rows; empty where a split would have no rows."""
    if not all(split["rows"] for split in splits.values()):
        return ""
    return f". Try: data.{key}={-(-count * 1000 // total) / 1000:g}"


def _empty(name: str, streams: Mapping[str, Counters], data: Data) -> str:
    """Returns the error message for a split without rows, with the reasons."""
    stream = streams.get(name, streams["train"])
    good = stream["read"] - stream["bad"]
    if good > stream["untrained"] + stream.get("dropped", 0):
        return (
            f"data.{name}: no row is left: data.eval={data.eval} cannot divide {good - stream['untrained']} rows of "
            "one and the same text. Try: more rows, data.eval=FILE or data.eval=null"
        )
    where = {
        "bad": "are bad",
        "too_long": f"are longer than data.max_length={data.max_length}",
        "untrained": f"have no token to train on after the cut at data.max_length={data.max_length}",
        "dropped": "were dropped by clean or data.overlap, listed in dropped.jsonl",
    }
    lost = ", ".join(f"{stream[count]} {words}" for count, words in where.items() if stream.get(count))
    return f"data.{name}: no row is left of {stream['read']}: {lost}"


def summary(report: Mapping[str, Any], folder: Path) -> list[str]:
    """Returns the lines of the summary: rows and tokens of each split, and the rows skipped, by reason."""
    lines = []
    for name, split in report["splits"].items():
        lines.append(
            f"{name}: {split['rows']:,} rows, {split['tokens']:,} tokens, {split['trained_tokens']:,} of them trained, "
            f"longest row {split['longest']:,}"
        )
    for name, stream in report["streams"].items():
        left_out = [
            f"{stream[count]:,} {words}"
            for count, words in (
                ("bad", f"bad (listed in {folder / 'bad_rows.txt'})"),
                ("untrained", "without a token to train on"),
                ("truncated", f"cut (the longest had {stream['longest']:,} tokens)"),
                ("too_long", f"left out as too long (the longest had {stream['longest']:,} tokens)"),
                ("split", f"split (the longest had {stream['longest']:,} tokens)"),
                ("shortened", "without their oldest turns"),
                ("dropped", f"dropped (listed in {folder / 'dropped.jsonl'})"),
                ("overlap", "also held out"),
            )
            if stream.get(count)
        ]
        if left_out:
            lines.append(f"data.{name}, {stream['read']:,} rows read: " + ", ".join(left_out))
    return lines + report.get("notes", [])
