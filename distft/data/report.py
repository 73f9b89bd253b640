"""A report.json in words: what there is to train on, what was left out, and whether that is too much.

Imports nothing heavy: plan and launch ask it too.
"""

from pathlib import Path
from typing import Any


def refused(report: dict[str, Any], data: dict[str, Any]) -> list[str]:
    """Returns why a preparation with these counts may not be trained on, by the thresholds of `data`."""
    reasons = []
    for name, stream in report["streams"].items():
        good = stream["read"] - stream["bad"]
        for key, count, total, what in (
            ("max_bad_fraction", stream["bad"], stream["read"], "are bad"),
            ("max_truncated_fraction", stream["truncated"], good, _cut(stream, data)),
            ("max_untrained_fraction", stream["untrained"], good, "have no token to train on"),
        ):
            if total and count / total > data[key]:
                reason = f"data.{key}={data[key]}: {count} of {total} rows of data.{name} {what}"
                reasons.append(reason + _regardless(key, count, total, report))
        if stream["overlap"] and data["overlap"] == "stop":
            reasons.append(
                f"data.overlap=stop: {stream['overlap']} rows of data.{name} are also in data.eval. "
                "Try: data.overlap=drop, which leaves them out of training"
            )
    return reasons + [_empty(name, report, data) for name, split in report["splits"].items() if not split["rows"]]


def _cut(stream: dict[str, Any], data: dict[str, Any]) -> str:
    longest = f"the longest has {stream['longest']} tokens"
    return f"are longer than data.max_length={data['max_length']} ({longest}) and would be cut"


def _regardless(key: str, count: int, total: int, report: dict[str, Any]) -> str:
    """Returns the value of a threshold that lets these rows pass; nothing where a split would be empty."""
    if not all(split["rows"] for split in report["splits"].values()):
        return ""
    return f". Try: data.{key}={-(-count * 1000 // total) / 1000:g}"


def _empty(name: str, report: dict[str, Any], data: dict[str, Any]) -> str:
    """Returns that a split has no rows, and where they went."""
    stream = report["streams"].get(name, report["streams"]["train"])
    good = stream["read"] - stream["bad"]
    if good > stream["untrained"] + (stream["overlap"] if data["overlap"] == "drop" else 0):
        return (
            f"data.{name}: no row is left: data.eval={data['eval']} cannot divide {good - stream['untrained']} rows of "
            "one and the same text. Try: more rows, data.eval=FILE or data.eval=null"
        )
    where = {
        "bad": "are bad",
        "untrained": f"have no token to train on after the cut at data.max_length={data['max_length']}",
        "overlap": "are also in data.eval",
    }
    lost = ", ".join(f"{stream[count]} {words}" for count, words in where.items() if stream[count])
    return f"data.{name}: no row is left of {stream['read']}: {lost}"


def summary(report: dict[str, Any], folder: Path) -> list[str]:
    """Returns the few lines a user reads: what is there to train on, and what was left out."""
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
                ("overlap", "also in data.eval"),
            )
            if stream[count]
        ]
        if left_out:
            lines.append(f"data.{name}, {stream['read']:,} rows read: " + ", ".join(left_out))
    return lines + report.get("notes", [])
