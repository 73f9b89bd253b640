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
        reasons += _over(data, "max_bad_fraction", stream["bad"], stream["read"], f"rows of data.{name} are bad")
        reasons += _over(
            data,
            "max_truncated_fraction",
            stream["truncated"],
            good,
            f"rows of data.{name} are longer than data.max_length={data['max_length']} (the longest has "
            f"{stream['longest']} tokens) and would be cut",
        )
        reasons += _over(
            data, "max_untrained_fraction", stream["untrained"], good, f"rows of data.{name} have no token to train on"
        )
        if stream["overlap"] and data["overlap"] == "stop":
            reasons.append(
                f"data.overlap=stop: {stream['overlap']} rows of data.{name} are also in data.eval; "
                "data.overlap=drop leaves them out of training"
            )
    for name, split in report["splits"].items():
        if not split["rows"]:
            reasons.append(f"data.{name}: no row is left")
    return reasons


def _over(data: dict[str, Any], key: str, count: int, total: int, what: str) -> list[str]:
    if not total or count / total <= data[key]:
        return []
    needed = -(-count * 1000 // total) / 1000
    return [f"data.{key}={data[key]}: {count} of {total} {what}; to go on regardless: data.{key}={needed:g}"]


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
    return lines
