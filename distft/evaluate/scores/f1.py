"""F1 of the words that answer and expected text share, as SQuAD computes it (Rajpurkar et al. 2016)."""

from collections import Counter
from collections.abc import Mapping

from distft.evaluate.scores import Counts, normalized, normalizer
from distft.evaluate.statistics import Value, mean


class Score:
    metrics: Mapping[str, Value] = {"f1": mean}
    binary: frozenset[str] = frozenset()

    def __init__(self, normalize: str = "squad") -> None:
        self.normalization, self.word = normalizer(normalize), normalize

    def __call__(self, answer: str, expected: str) -> Mapping[str, Counts]:
        ours, theirs = normalized(answer, self.word).split(), normalized(expected, self.word).split()
        if not ours or not theirs:
            return {"f1": (float(ours == theirs), 1.0)}
        shared = sum((Counter(ours) & Counter(theirs)).values())
        return {"f1": (2 * shared / (len(ours) + len(theirs)), 1.0)}
