"""eval/samples.jsonl of a run: a line for each prompt and evaluation.

`{step, prompt, question, expected, completion, verbatim, expected_verbatim}`; question: the user's last turn of the
prompt.

The report reads it on a login node, so nothing here imports torch.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from distft.run import RunFolder, json_text

FILE = "samples.jsonl"


class SampleLine(TypedDict):
    """A line of samples.jsonl; older versions did not write all of it."""

    step: int
    prompt: str
    question: NotRequired[str]
    expected: str
    completion: str
    verbatim: NotRequired[float | None]
    expected_verbatim: NotRequired[float | None]


@dataclass(frozen=True)
class Sample:
    """The user's last turn of a held-out prompt, with its answers before the first step and after the last shown."""

    prompt: str
    expected: str
    before: str
    after: str
    verbatim: float | None = None  # share of the last answer's n-grams that the training rows contain
    expected_verbatim: float | None = None  # the same of the expected answer, to compare with


def samples_file(run: RunFolder) -> Path:
    return run.eval / FILE


def keep(file: Path, start_step: int) -> None:
    """Drops the lines after `start_step`, and a line cut off by a crash; a run that begins drops all."""
    lines = [line for line in read_samples(file) if start_step and line["step"] <= start_step]
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text("".join(json_text(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    partial.replace(file)


def append(file: Path, lines: Iterable[SampleLine]) -> None:
    with file.open("a", encoding="utf-8") as opened:
        opened.write("".join(json_text(line, ensure_ascii=False) + "\n" for line in lines))


def read_samples(file: Path) -> list[SampleLine]:
    """Returns the lines of a samples file; none without it."""
    if not file.is_file():
        return []
    *whole, _ = file.read_text(encoding="utf-8").split("\n")  # splitlines also splits inside texts, as at U+2028
    return [json.loads(line) for line in whole]


def before_and_after(run: RunFolder, step: int | None = None) -> list[Sample]:
    """Returns the samples of a run that has answered before the first step and later.

    step: after which they were answered; None: the last evaluation.
    """
    lines = read_samples(samples_file(run))
    after = step if step is not None else max((line["step"] for line in lines), default=0)
    first = {line["prompt"]: line["completion"] for line in lines if line["step"] == 0}
    return [
        Sample(
            line.get("question", line["prompt"]),
            line["expected"],
            first[line["prompt"]],
            line["completion"],
            line.get("verbatim"),
            line.get("expected_verbatim"),
        )
        for line in lines
        if 0 < line["step"] == after and line["prompt"] in first
    ]
