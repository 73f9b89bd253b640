"""Template sentences: which of two groups a model expects, and how well it speaks of each group of an axis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from distft.audit.counterfactual import compared_measure
from distft.audit.job import Part, Questions, Results
from distft.audit.measures import Measure, corrected
from distft.audit.statistics import bootstrap
from distft.audit.terms import Terms
from distft.evaluate.statistics import holm

TEMPLATES = Path(__file__).with_name("templates.yaml")
PREFERENCE_LIMITS = (
    "own English templates; the share of sentences in which the first group is likelier per token, 0.5 for an "
    "indifferent model; the world's shares differ by occupation; two genders alone"
)
VALENCE_LIMITS = (
    "own English templates; mean log-likelihood of positive less negative words, largest less smallest over the "
    "groups; words differ in frequency, which the comparison of base and tuned cancels in part"
)


@dataclass(frozen=True)
class Choice:
    """A sentence with two ends: scores of the first and the second group's."""

    term: str
    first: int
    second: int


def preference(scores: Sequence[tuple[float, float]]) -> np.ndarray:
    """Returns, for each pair of log-likelihoods, 1 where the first is higher, 0.5 where they are equal, else 0."""
    values = np.asarray(scores, dtype=float).reshape(-1, 2)
    return np.where(values[:, 0] == values[:, 1], 0.5, (values[:, 0] > values[:, 1]).astype(float))


@dataclass(frozen=True)
class Choices:
    """The sentences of one axis that choose between two groups."""

    axis: str
    groups: tuple[str, str]
    kind: str
    items: Sequence[Choice]

    def measures(self, base: Results, tuned: Results) -> list[Measure]:
        values = np.stack([self.preferred(said) for said in (base, tuned)], axis=1)  # [items, 2]
        if not len(values):
            return []
        change = bootstrap(values, further_from_half)
        made = compared_measure(
            (self.axis, f"preference:{self.kind}", PREFERENCE_LIMITS),
            values,
            change,
            group=f"{self.groups[0]} rather than {self.groups[1]}",
        )
        return corrected([made], [change.p], [change.value > 0])

    def preferred(self, said: Results) -> np.ndarray:
        """Returns which sentences expect the first group: 1, 0, or 0.5 for a tie."""
        pairs = [(-said.scores[item.first].loss, -said.scores[item.second].loss) for item in self.items]
        return preference(pairs)


def further_from_half(values: np.ndarray, axis: int = 0) -> float:
    """Returns how much further from 0.5 the mean of tuned is than that of base. values: [items, 2]"""
    base, tuned = values.mean(axis=axis)
    return abs(tuned - 0.5) - abs(base - 0.5)


@dataclass(frozen=True)
class Valence:
    """The sentences of one axis about each of its groups. scores: [groups, sentences, 2, words] of indices."""

    axis: str
    groups: tuple[str, ...]
    scores: np.ndarray

    def regard(self, said: Results) -> np.ndarray:
        """Returns the loss of a negative word less that of the positive one, [sentences * words, groups]."""
        losses = np.vectorize(lambda i: said.scores[i].loss)(self.scores)
        return (losses[:, :, 1] - losses[:, :, 0]).reshape(len(self.groups), -1).T


@dataclass(frozen=True)
class Valences:
    """The valence sentences of all axes."""

    parts: Sequence[Valence]

    def measures(self, base: Results, tuned: Results) -> list[Measure]:
        found, changes = [], []
        for part in self.parts:
            both = np.stack([part.regard(base), part.regard(tuned)], axis=-1)  # [items, groups, 2]
            gaps = [float(np.ptp(both[..., i].mean(0))) for i in (0, 1)]
            change = bootstrap(both, _wider_range)
            worst = part.groups[int(both[..., 1].mean(0).argmin())]
            found.append(
                Measure(
                    part.axis,
                    "valence_gap",
                    gaps[0],
                    gaps[1],
                    change.low,
                    change.high,
                    n=both.shape[0] * both.shape[1],
                    flag=False,
                    limits=VALENCE_LIMITS,
                    note=f"nats per token; lowest for {worst} after training",
                )
            )
            changes.append(change)
        return corrected(found, holm([each.p for each in changes]), [each.value > 0 for each in changes])


def _wider_range(values: np.ndarray, axis: int = 0) -> float:
    """Returns how much the range over groups grew. values: [items, groups, 2]"""
    means = values.mean(axis=axis)  # [groups, 2]
    return float(np.ptp(means[:, 1]) - np.ptp(means[:, 0]))


def plan_templates(terms: Terms, questions: Questions, path: Path = TEMPLATES) -> list[Part]:
    """Asks for all template sentences; those without room for them are left out."""
    content: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    parts: list[Part] = []
    for axis, section in content["choices"].items():
        kind = section["with"]
        words = [attribute.term for attribute in terms.attributes if attribute.kind == kind]
        items = []
        for term in words:
            for sentence in section["sentences"]:
                first, second = (
                    questions.score_text(sentence["prompt"].format(term=term), end) for end in sentence["continuations"]
                )
                if first is not None and second is not None:
                    items.append(Choice(term, first, second))
        parts.append(Choices(axis, tuple(section["groups"]), kind, items))
    section, valences = content["valence"], []
    words = section["continuations"]
    for axis, groups in section["axes"].items():
        scores = [
            [[[questions.score_text(sentence.format(group=group), word) for word in words[kind]]
              for kind in ("positive", "negative")] for sentence in section["sentences"]]
            for group in groups
        ]  # fmt: skip
        found = np.array(scores, dtype=object)
        if not (found == None).any():  # noqa: E711  # elementwise
            valences.append(Valence(axis, tuple(groups), found.astype(int)))
    return [*parts, Valences(valences)]
