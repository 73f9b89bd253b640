"""What a model writes, and where it is worse: personal data, toxic words and groups in answers, and loss by slice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from distft.audit.counterfactual import HeldOut, compared_measure, refuses
from distft.audit.dataset import PII_LIMITS
from distft.audit.job import Questions, Results
from distft.audit.measures import TOO_FEW, Measure, corrected
from distft.audit.mentions import look
from distft.audit.statistics import Resampled, bootstrap
from distft.audit.terms import Group, Terms
from distft.audit.toxicity import Toxicity
from distft.data.cleaning.rules import pii
from distft.evaluate.statistics import holm

SAMPLES_LIMITS = "greedy answers to held-out prompts, of at most {tokens} tokens; sampled answers may differ"
SLICE_LIMITS = (
    "held-out rows that name a group, against those that name another group of its axis; the rows differ in topic and "
    "length too"
)
LENGTHS = ((0, 64), (64, 256), (256, 1024), (1024, 2**31))  # tokens


@dataclass(frozen=True)
class Answers:
    """Greedy answers to held-out prompts. prompts: their texts; indices: of the answers."""

    prompts: Sequence[str]
    indices: Sequence[int]
    terms: Terms
    tokens: int
    toxicity: Toxicity

    def measures(self, base: Results, tuned: Results) -> list[Measure]:
        if not self.indices:
            return []
        limits = SAMPLES_LIMITS.format(tokens=self.tokens)
        found = []
        if find_spec("phonenumbers") is not None:
            found.append(
                self._share(base, tuned, "privacy", "answers_with_pii", f"{limits}; {PII_LIMITS}", self._is_new_pii)
            )
        toxic = self._toxic(base, tuned)
        names = ("toxicity", "toxic_answers", f"{limits}; {self.toxicity.limits}")
        found.append(self._share(base, tuned, *names, lambda _, said: said in toxic))
        found.append(
            self._share(base, tuned, "refusal", "refusals", f"{limits}; English phrases", lambda _, said: refuses(said))
        )
        return found + self._mentions(base, tuned, limits)

    def _share(
        self,
        base: Results,
        tuned: Results,
        axis: str,
        measure: str,
        limits: str,
        has: Callable[[str, str], bool],
    ) -> Measure:
        values = np.array(
            [
                [float(has(prompt, said.answers[i])) for said in (base, tuned)]
                for prompt, i in zip(self.prompts, self.indices, strict=True)
            ]
        )
        change = bootstrap(values, _difference)
        made = compared_measure((axis, measure, limits), values, change)
        return corrected([made], [change.p], [change.value > 0])[0]

    def _is_new_pii(self, prompt: str, answer: str) -> bool:
        return any(answer[start:end] not in prompt for start, end, _ in pii.Rule().spans(answer))

    def _toxic(self, base: Results, tuned: Results) -> set[str]:
        """Returns the answers of both models that are toxic."""
        texts = [*dict.fromkeys(said.answers[i] for said in (base, tuned) for i in self.indices)]
        return {text for text, is_toxic in zip(texts, self.toxicity.are_toxic(texts), strict=True) if is_toxic}

    def _mentions(self, base: Results, tuned: Results, limits: str) -> list[Measure]:
        """Returns the share of answers that name each group, where any does."""
        seen = [[look(said.answers[i], self.terms).mentions for i in self.indices] for said in (base, tuned)]
        found = []
        for group in self.terms.groups:
            values = np.array([[float(group in each) for each in pair] for pair in zip(*seen, strict=True)])
            if values.any():
                change = bootstrap(values, _difference)
                names = (group.axis, "answers_naming", limits)
                found.append(compared_measure(names, values, change, group=group.name))
        return found


def _difference(values: np.ndarray, axis: int = 0) -> float:
    base, tuned = values.mean(axis=axis)
    return tuned - base


def plan_answers(
    rows: Sequence[HeldOut], questions: Questions, terms: Terms, most: int, tokens: int, toxicity: Toxicity
) -> Answers:
    """Asks for greedy answers to the first held-out prompts."""
    prompts, indices = [], []
    for row in rows[:most]:
        index = questions.answer(questions.encode(row.prompt))
        if index is not None:
            prompts.append(row.prompt)
            indices.append(index)
    return Answers(prompts, indices, terms, tokens, toxicity)


@dataclass(frozen=True)
class Slices:
    """Held-out rows with their scores, and the slices that each is in: groups that it names, and its length."""

    indices: Sequence[int]
    groups: Sequence[frozenset[Group]]
    lengths: Sequence[int]

    def measures(self, base: Results, tuned: Results) -> list[Measure]:
        losses = np.array([[said.scores[i].loss for said in (base, tuned)] for i in self.indices])
        found, changes = [], []
        for group in sorted({group for groups in self.groups for group in groups}, key=str):
            inside = np.array([group in groups for groups in self.groups])
            others = np.array([any(g.axis == group.axis and g != group for g in groups) for groups in self.groups])
            others &= ~inside
            if inside.any() and others.any():
                made, change = _gap(losses[inside], losses[others], (group.axis, group.name))
                found.append(made)
                changes.append(change)
        for low, high in LENGTHS:
            inside = np.array([low <= length < high for length in self.lengths])
            if inside.any() and (~inside).any():
                name = f"{low} to {high - 1} tokens" if high < 2**31 else f"from {low} tokens"
                made, change = _gap(losses[inside], losses[~inside], ("length", name))
                found.append(made)
                changes.append(change)
        return corrected(found, holm([each.p for each in changes]), [each.value > 0 for each in changes])


def _gap(inside: np.ndarray, others: np.ndarray, names: tuple[str, str]) -> tuple[Measure, Resampled]:
    """Returns how much worse the loss is in a slice than in others, base and tuned. inside, others: [rows, 2]"""
    axis, name = names
    generator = np.random.default_rng(0)
    gaps = inside.mean(0) - others.mean(0)
    drawn = np.array(
        [
            inside[generator.integers(0, len(inside), len(inside))].mean(0)
            - others[generator.integers(0, len(others), len(others))].mean(0)
            for _ in range(1000)
        ]
    )  # [resamples, 2]
    wider = np.abs(drawn[:, 1]) - np.abs(drawn[:, 0])
    low, high = np.percentile(wider, (2.5, 97.5))
    p = min(1.0, 2 * (min((wider <= 0).sum(), (wider >= 0).sum()) + 1) / (len(wider) + 1))
    n = min(len(inside), len(others))
    few = f", too few: {n}" if n < TOO_FEW else ""
    made = Measure(
        axis, "slice_loss_gap", float(gaps[0]), float(gaps[1]), float(low), float(high), n=n, flag=False,
        limits=SLICE_LIMITS, group=name, note=f"{len(inside):,} rows against {len(others):,}{few}",
        intervals={
            name: (float(np.percentile(drawn[:, i], 2.5)), float(np.percentile(drawn[:, i], 97.5)))
            for i, name in enumerate(("base", "tuned"))
        },
    )  # fmt: skip
    return made, Resampled(abs(gaps[1]) - abs(gaps[0]), float(low), float(high), float(p))


def plan_slices(rows: Sequence[HeldOut], questions: Questions, terms: Terms) -> Slices:
    """Asks for the loss of every row."""
    indices, groups, lengths = [], [], []
    for row in rows:
        index = questions.score_text(row.prompt, row.answer)
        if index is not None:
            indices.append(index)
            groups.append(frozenset(look(f"{row.prompt}\n{row.answer}", terms).mentions))
            lengths.append(len(questions.texts[index].token_ids))
    return Slices(indices, groups, lengths)
