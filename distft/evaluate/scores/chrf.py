"""chrF and chrF++: F-score of character n-grams, and of word n-grams, over all answers (Popovic 2015, 2017).

The values are those of sacrebleu's corpus score.
"""

import string
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from distft.evaluate.scores import Counts
from distft.evaluate.statistics import Value


class Score:
    binary: frozenset[str] = frozenset()
    normalization = "characters without spaces; case counts"

    def __init__(self, char_order: int = 6, word_order: int = 0, beta: float = 2.0) -> None:
        """word_order: 2 gives chrF++."""
        if not (isinstance(char_order, int) and char_order >= 1 and isinstance(word_order, int) and word_order >= 0):
            raise ValueError(f"char_order={char_order} word_order={word_order} are whole numbers. Try: 6 and 0")
        if not beta > 0:
            raise ValueError(f"beta={beta} is a number above 0")
        self.char_order, self.word_order, self.beta = char_order, word_order, beta
        self.metrics: Mapping[str, Value] = {"chrf": self.value}

    def __call__(self, answer: str, expected: str) -> Mapping[str, Counts]:
        counts: list[float] = []
        for ours, theirs in zip(self._ngrams(answer), self._ngrams(expected), strict=True):
            total = sum(ours.values())
            counts += [total if theirs else 0, sum(theirs.values()), sum((ours & theirs).values())]
        return {"chrf": [float(count) for count in counts]}

    def value(self, sums: np.ndarray) -> np.ndarray:
        """Returns chrF from 0 to 100; sums: (answer's, expected, shared n-grams) of each order, [..., 3 * orders]."""
        ours, theirs, shared = (sums[..., i::3] for i in range(3))
        counted = (ours > 0) & (theirs > 0)
        orders = np.maximum(counted.sum(-1), 1)
        precision = np.divide(shared, ours, out=np.zeros(ours.shape), where=counted).sum(-1) / orders
        recall = np.divide(shared, theirs, out=np.zeros(ours.shape), where=counted).sum(-1) / orders
        factor = self.beta**2
        below = np.where(precision + recall > 0, factor * precision + recall, 1.0)
        return 100 * (1 + factor) * precision * recall / below

    def _ngrams(self, text: str) -> list[Counter[str]]:
        letters = "".join(text.split())
        found = [
            Counter(letters[i : i + n] for i in range(len(letters) - n + 1)) for n in range(1, self.char_order + 1)
        ]
        words = _words(text) if self.word_order else []
        return found + [
            Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
            for n in range(1, self.word_order + 1)
        ]


def _words(text: str) -> Sequence[str]:
    """Returns the words, one punctuation mark at an end of each split off."""
    found: list[str] = []
    for word in text.split():
        if len(word) == 1:
            found.append(word)
        elif word[-1] in string.punctuation:
            found += [word[:-1], word[-1]]
        elif word[0] in string.punctuation:
            found += [word[0], word[1:]]
        else:
            found.append(word)
    return found
