"""Exact match: the share of answers that are the expected text after normalization."""

from collections.abc import Mapping

from distft.evaluate.scores import Counts, normalized, normalizer
from distft.evaluate.statistics import Value, mean


class Score:
    metrics: Mapping[str, Value] = {"exact_match": mean}
    binary = frozenset({"exact_match"})

    def __init__(self, normalize: str = "squad") -> None:
        self.normalization, self.word = normalizer(normalize), normalize

    def __call__(self, answer: str, expected: str) -> Mapping[str, Counts]:
        return {"exact_match": (float(normalized(answer, self.word) == normalized(expected, self.word)), 1.0)}
