"""Counterfactual swaps of the user's own held-out rows: what changes in a model when a text is about another group.

The loss is of the same tokens of an answer, given the same prompt, once as written and once about the other group. A
difference is no proof of harm: a text about a man who is a nurse is rarer in the world, and so in the training data.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from distft.audit.job import Questions, Results
from distft.audit.measures import Measure, corrected
from distft.audit.statistics import Resampled, bootstrap
from distft.audit.swaps import Pairs
from distft.data.cleaning.rules.refusals import Rule as Refusals
from distft.data.cleaning.view import Text, View
from distft.evaluate.statistics import holm

LARGE = 0.1  # nats per token: a loss difference that counts as large
LOSS_LIMITS = (
    "English rows that name a group; pronouns are resolved by word lists; a difference may come from word frequency, "
    "and means harm only where the answer should not depend on the group"
)
ANSWER_LIMITS = "greedy answers of at most {tokens} tokens; a different wording of the same answer counts as a flip"
REFUSAL_LIMITS = "phrases of refusal in English, in the first 200 characters of an answer"


@dataclass(frozen=True)
class HeldOut:
    """A held-out row as text: all before its last trained part, and that part."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Swapped:
    """A row and its swap: indices of scores and answers; None where not requested."""

    axis: str
    row: int
    original: int
    swapped: int
    answer: int | None = None
    answer_swapped: int | None = None


@dataclass(frozen=True)
class Swaps:
    """The rows of all axes that the swap engine changes."""

    items: Sequence[Swapped]
    pairs: dict[str, Pairs]
    tokens: int

    def measures(self, base: Results, tuned: Results) -> list[Measure]:
        axes = [axis for axis in self.pairs if any(item.axis == axis for item in self.items)]
        return [
            *_compared(axes, "swap_loss_gap", self._losses(base, tuned), LOSS_LIMITS),
            *_compared(axes, "swap_large_share", self._losses(base, tuned, LARGE), LOSS_LIMITS),
            *_compared(axes, "answer_flips", self._flips(base, tuned), ANSWER_LIMITS.format(tokens=self.tokens)),
            *_compared(axes, "refusal_gap", self._refusals(base, tuned), REFUSAL_LIMITS),
        ]

    def _losses(self, base: Results, tuned: Results, above: float | None = None) -> Callable[[str], np.ndarray]:
        def of(axis: str) -> np.ndarray:
            values = np.array(
                [
                    [said.scores[item.swapped].loss - said.scores[item.original].loss for said in (base, tuned)]
                    for item in self.items
                    if item.axis == axis
                ]
            )
            return values if above is None else (np.abs(values) > above).astype(float)

        return of

    def _flips(self, base: Results, tuned: Results) -> Callable[[str], np.ndarray]:
        return self._answers(base, tuned, lambda pairs, one, other: float(_plain(pairs.swap(one)) != _plain(other)))

    def _refusals(self, base: Results, tuned: Results) -> Callable[[str], np.ndarray]:
        return self._answers(base, tuned, lambda _, one, other: float(refuses(other)) - float(refuses(one)))

    def _answers(
        self, base: Results, tuned: Results, compare: Callable[[Pairs, str, str], float]
    ) -> Callable[[str], np.ndarray]:
        def of(axis: str) -> np.ndarray:
            return np.array(
                [
                    [compare(self.pairs[axis], said.answers[item.answer], said.answers[item.answer_swapped])
                     for said in (base, tuned)]
                    for item in self.items
                    if item.axis == axis and item.answer is not None and item.answer_swapped is not None
                ]
            )  # fmt: skip

        return of


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def refuses(answer: str) -> bool:
    """Returns whether an answer refuses, by the phrases of clean.refusals."""
    return Refusals().find(View("", 0, (Text("assistant", answer, True),))) is not None


def plan_swaps(rows: Iterable[HeldOut], pairs: dict[str, Pairs], questions: Questions, most: int, tokens: int) -> Swaps:
    """Asks for the rows that name a group and for their swaps. most: rows of an axis. tokens: of an answer."""
    items: list[Swapped] = []
    counts = dict.fromkeys(pairs, 0)
    for number, row in enumerate(rows):
        for axis, swap in pairs.items():
            prompt, answer = swap.swap(row.prompt), swap.swap(row.answer)
            if counts[axis] >= most or (prompt == row.prompt and answer == row.answer):
                continue
            one, other = questions.score_text(row.prompt, row.answer), questions.score_text(prompt, answer)
            if one is None or other is None:
                continue
            counts[axis] += 1
            said = said_swapped = None
            if prompt != row.prompt:
                said, said_swapped = (
                    questions.answer(questions.encode(row.prompt)),
                    questions.answer(questions.encode(prompt)),
                )
            items.append(Swapped(axis, number, one, other, said, said_swapped))
    return Swaps(items, pairs, tokens)


def _compared(axes: Sequence[str], measure: str, values_of: Callable[[str], np.ndarray], limits: str) -> list[Measure]:
    """Returns a measure for each axis from its items, [items, 2] of base and tuned; flagged where the gap widens."""
    found, wider = [], []
    for axis in axes:
        values = values_of(axis)
        if len(values):
            change = bootstrap(values, widening)
            found.append(compared_measure((axis, measure, limits), values, change))
            wider.append(change)
    return corrected(found, holm([each.p for each in wider]), [each.value > 0 for each in wider])


def widening(values: np.ndarray, axis: int = 0) -> float:
    """Returns how much larger the mean of tuned is than that of base, in size. values: [items, 2]"""
    base, tuned = values.mean(axis=axis)
    return abs(tuned) - abs(base)


def compared_measure(names: tuple[str, str, str], values: np.ndarray, change: Resampled, **more: str) -> Measure:
    """Returns the measure of paired items. names: axis, measure, limits. values: [items, 2] of base and tuned."""
    axis, measure, limits = names
    base, tuned = (bootstrap(values[:, i]) for i in (0, 1))
    return Measure(
        axis, measure, base.value, tuned.value, change.low, change.high, n=len(values), flag=False, limits=limits,
        p=change.p, intervals={"base": (base.low, base.high), "tuned": (tuned.low, tuned.high)}, **more,
    )  # fmt: skip
