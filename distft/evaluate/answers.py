"""Answers of an evaluation: their scores, and statistics of their length and repetition, as metrics over items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distft.evaluate.metrics import Metric
from distft.evaluate.scores import ScoreLike
from distft.evaluate.statistics import mean

N_GRAM = 4  # words; a loop of the model repeats these


@dataclass(frozen=True)
class Answered:
    """One answer. tokens: generated, with the end token. stopped: eos, length or stop."""

    text: str
    expected: str
    tokens: int
    stopped: str


def answer_metrics(answers: Sequence[Answered], scores: Mapping[str, ScoreLike]) -> list[Metric]:
    """Returns the metrics of the scores, then answer_tokens, answer_repetition, answer_cut and answer_empty."""
    found: list[Metric] = []
    for score in scores.values():
        rows = [score(each.text, each.expected) for each in answers]
        for name, value in score.metrics.items():
            counts = np.array([row[name] for row in rows], dtype=np.float64)
            found.append(Metric(name, counts, value, is_binary=name in score.binary))
    found += [
        _share("answer_tokens", [each.tokens for each in answers], lower_is_better=None),
        _share("answer_repetition", [repetition(each.text) for each in answers], lower_is_better=True),
        _share("answer_cut", [each.stopped == "length" for each in answers], is_binary=True, lower_is_better=True),
        _share("answer_empty", [not each.text.strip() for each in answers], is_binary=True, lower_is_better=True),
    ]
    return found


def repetition(text: str) -> float:
    """Returns the share of the runs of four words that occurred before in the text; 0 for shorter texts."""
    words = text.split()
    runs = [tuple(words[i : i + N_GRAM]) for i in range(len(words) - N_GRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _share(name: str, values: Sequence[float], is_binary: bool = False, lower_is_better: bool | None = False) -> Metric:
    counts = np.stack([np.array(values, dtype=np.float64), np.ones(len(values))], 1)
    return Metric(name, counts, mean, is_binary, lower_is_better)
