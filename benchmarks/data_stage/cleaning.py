"""Cleaning in documents per second and core: a preset, each of its rules alone, and the ratio of the two costs.

`python -m benchmarks.data_stage.cleaning [documents=900] [preset=sft] [out=FILE.json]`. Documents are READMEs of the
installed packages, in pieces of about 1,400 characters. The preset shares normalized words and hashes between its
rules, so it should cost less than the sum. Each is measured in turns, in one process, and the fastest turn counts.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import distributions
from itertools import islice
from pathlib import Path

from distft.config import compose
from distft.data.cleaning.engine import Cleaner, make_cleaner
from distft.data.cleaning.rules.leakage import Item
from distft.data.cleaning.survey import Places, Survey
from distft.data.example import Example, Segment
from distft.data.raw import RawRow

BATCH = 256
PIECE = 1400  # characters
HELD_OUT = 200  # items that leakage looks for
TURNS = 3

Row = tuple[RawRow, Example]


def pieces() -> Iterator[str]:
    """Yields paragraphs of READMEs, joined to about PIECE characters."""
    for each in sorted(distributions(), key=lambda found: found.metadata["Name"].lower()):
        text = each.read_text("METADATA") or ""
        piece = ""
        for paragraph in text.split("\n\n"):
            piece += f"{paragraph}\n\n"
            if len(piece) >= PIECE:
                yield piece[: 2 * PIECE]
                piece = ""


def documents(count: int) -> list[Row]:
    found = []
    for line, text in enumerate(islice(pieces(), count), 1):
        prompt, _, answer = text.partition("\n")
        example = Example((Segment("prompt", prompt or "?", False), Segment("completion", answer or "?", True)))
        found.append((RawRow("readmes", line, {"text": text}), example))
    return found


def seconds(cleaner: Cleaner, rows: list[Row]) -> float:
    """Returns the processor seconds that tags and decisions of all rows take."""
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        survey, places = Survey(cleaner, Path(folder)), Places()
        for start in range(0, len(rows), BATCH):
            looked = [cleaner.look(raw, example, {}) for raw, example in rows[start : start + BATCH]]
            survey.add(cleaner.tag(looked, {}))
            places.add([(each.view.source, each.view.line) for each in looked])
        survey.decide(places)
    return time.process_time() - started


def measure(count: int, preset: str) -> dict[str, object]:
    """Returns documents per second of the preset and of each rule, and the preset's cost by the sum of its rules'."""
    cleaner = make_cleaner(compose(["model.tiny=true", "data.train=org/rows", f"clean={preset}"]))
    if cleaner is None:
        raise SystemExit(f"preset={preset} has no rules")
    rows = documents(count + HELD_OUT)
    held_out, rows = rows[:HELD_OUT], rows[HELD_OUT:]
    cleaner = cleaner.guarding(Item(f"held:{raw.line}", str(raw.value)) for raw, _ in held_out)
    alone = {each.name: replace(cleaner, rules=(each,), by_prompt=False) for each in cleaner.rules}
    seconds(cleaner, rows[:BATCH])  # loads the models and libraries
    turns = [{name: seconds(each, rows) for name, each in {"all": cleaner, **alone}.items()} for _ in range(TURNS)]
    fastest = {name: min(turn[name] for turn in turns) for name in turns[0]}
    total = fastest.pop("all")
    return {
        "preset": preset,
        "documents": len(rows),
        "mean_characters": round(sum(len(str(raw.value)) for raw, _ in rows) / len(rows)),
        "documents_per_second": round(len(rows) / total),
        "ratio_to_sum_of_rules": round(total / sum(fastest.values()), 3),
        "documents_per_second_of_rule": {name: round(len(rows) / each) for name, each in fastest.items()},
    }


def main(arguments: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments)
    found = measure(int(given.get("documents", 900)), given.get("preset", "sft"))
    text = json.dumps(found, indent=1)
    print(text)
    if out := given.get("out"):
        Path(out).write_text(f"{text}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
