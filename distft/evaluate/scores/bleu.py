"""BLEU over all answers, by sacrebleu (Papineni et al. 2002; Post 2018)."""

from collections.abc import Mapping
from importlib.util import find_spec

import numpy as np

from distft.evaluate.scores import Counts
from distft.evaluate.statistics import Value

TOKENIZERS = ("13a", "intl", "char", "zh", "none")
_ORDER = 4


class Score:
    binary: frozenset[str] = frozenset()

    def __init__(self, tokenize: str = "13a", lowercase: bool = False) -> None:
        if find_spec("sacrebleu") is None:
            raise ImportError("sacrebleu is not installed. Try: pip install 'distft[eval]'")
        if tokenize not in TOKENIZERS:
            raise ValueError(f"tokenize={tokenize}. Allowed: {', '.join(TOKENIZERS)}")
        from sacrebleu.metrics.bleu import BLEU

        self.bleu = BLEU(lowercase=lowercase, tokenize=str(tokenize), effective_order=True)
        self.normalization = f"tokenizer {tokenize}{', lower case' * lowercase}; exponential smoothing; percent"
        self.metrics: Mapping[str, Value] = {"bleu": self.value}

    def __call__(self, answer: str, expected: str) -> Mapping[str, Counts]:
        found = self.bleu.sentence_score(answer, [expected])
        return {"bleu": [float(count) for count in (*found.counts, *found.totals, found.sys_len, found.ref_len)]}

    def value(self, sums: np.ndarray) -> np.ndarray:
        """Returns BLEU from 0 to 100; sums: (4 matches, 4 totals, length of the answers, of the expected), [..., 10].

        sacrebleu's `exp` smoothing: the k-th order without a match has precision 1 / (2^k totals).
        """
        matches, totals = sums[..., :_ORDER], sums[..., _ORDER : 2 * _ORDER]
        length, expected = sums[..., -2], sums[..., -1]
        is_none = matches < 0.5  # half counts occur where a gradient is taken
        smoothed = np.where(is_none, 0.5 ** np.cumsum(is_none, -1), matches)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.where(totals > 0, np.log(smoothed / totals), -np.inf)
            brevity = np.where(length < expected, np.exp(1 - expected / length), 1.0)
        return 100 * np.where(is_none.all(-1), 0.0, brevity * np.exp(logs.mean(-1)))
