"""ROUGE-1, ROUGE-2 and ROUGE-L: F1 of shared words, word pairs, and the longest common subsequence (Lin 2004).

The values are those of Google's rouge-score without stemming. That package keeps only a-z and 0-9; here a word is any
run of letters and digits, so that other scripts are not empty.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from distft.evaluate.scores import Counts
from distft.evaluate.statistics import Value, mean

_WORD = re.compile(r"[^\W_]+")


class Score:
    metrics: Mapping[str, Value] = {"rouge1": mean, "rouge2": mean, "rougeL": mean}
    binary: frozenset[str] = frozenset()
    normalization = "lower case; words are runs of letters and digits; no stemming"

    def __call__(self, answer: str, expected: str) -> Mapping[str, Counts]:
        ours, theirs = _WORD.findall(answer.lower()), _WORD.findall(expected.lower())
        found: dict[str, Counts] = {}
        for n in (1, 2):
            a, b = ngrams(ours, n), ngrams(theirs, n)
            found[f"rouge{n}"] = (_f1(sum((a & b).values()), sum(a.values()), sum(b.values())), 1.0)
        return found | {"rougeL": (_f1(longest_common(ours, theirs), len(ours), len(theirs)), 1.0)}


def ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def longest_common(left: Sequence[str], right: Sequence[str]) -> int:
    """Returns the length of the longest common subsequence."""
    row = [0] * (len(right) + 1)
    for word in left:
        diagonal = 0
        for j, other in enumerate(right, 1):
            diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


def _f1(shared: int, ours: int, theirs: int) -> float:
    return 2 * shared / (ours + theirs) if shared else 0.0
