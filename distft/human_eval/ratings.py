"""Ratings of single answers: means per system and criterion, differences between systems, agreement."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy import stats

from distft.human_eval.agreement import krippendorff_alpha
from distft.human_eval.analysis import AlphaEstimate, Analysis, Mean, MeanDifference, alpha_json
from distft.human_eval.intervals import Interval, clustered_mean, two_way_variance
from distft.human_eval.study import SCALE, Key, Settings
from distft.human_eval.votes import Vote


def add_ratings(result: Analysis, settings: Settings, key: Key, votes: Sequence[Vote]) -> None:
    """Adds the part of analysis.json about ratings. votes: the counted ones, without skipped pages."""
    rows = [key.items[vote.item] for vote in votes]
    prompts = np.array([row for row, _ in rows])
    systems = np.array([order[0] for _, order in rows])
    raters = np.unique([vote.rater for vote in votes], return_inverse=True)[1]
    means: list[Mean] = []
    differences: list[MeanDifference] = []
    agreement: dict[str, AlphaEstimate] = {}
    for criterion in settings.criteria:
        values = np.array([vote.ratings[criterion] for vote in votes], dtype=np.float64)
        for index, system in enumerate(key.systems):
            own = systems == index
            if own.any():
                mean = clustered_mean(values[own], raters[own], prompts[own])
                means.append(mean_json(criterion, system.name, values[own], mean))
        for one, other in combinations(range(len(key.systems)), 2):
            found = difference(values, (systems == one, systems == other), raters, prompts)
            if found:
                names = (key.systems[one].name, key.systems[other].name)
                differences.append(difference_json(criterion, names, found))
        items = np.unique([vote.item for vote in votes], return_inverse=True)[1]
        counts = np.zeros((int(items.max()) + 1, len(SCALE)), dtype=np.int64)
        np.add.at(counts, (items, values.astype(np.int64) - SCALE[0]), 1)
        agreement[criterion] = alpha_json(krippendorff_alpha(counts, SCALE, "interval", np.random.default_rng(0)))
    result["means"], result["differences"] = means, differences
    result["ratings"] = [{"text": sentence(each)} for each in differences]
    result["agreement_by_criterion"] = agreement


def mean_json(criterion: str, system: str, values: np.ndarray, found: Interval | None) -> Mean:
    """Returns the mean of one system's ratings [votes] with its interval, where there is one."""
    mean: Mean = {"criterion": criterion, "system": system, "votes": len(values), "value": float(values.mean())}
    if found:
        mean["value"], mean["low"], mean["high"] = found.value, found.low, found.high
        mean["stderr"], mean["method"] = found.stderr, found.method
    return mean


def difference_json(criterion: str, names: tuple[str, str], found: Interval) -> MeanDifference:
    return {
        "criterion": criterion,
        "a": names[0],
        "b": names[1],
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "stderr": found.stderr,
        "method": found.method,
    }


def difference(
    values: np.ndarray, sides: tuple[np.ndarray, np.ndarray], raters: np.ndarray, prompts: np.ndarray
) -> Interval | None:
    """Returns the difference of two means with its interval clustered by rater and prompt; None without both.

    sides: which values [votes] belong to each. The clusters pair votes on the same prompt or of the same rater.
    """
    if not sides[0].any() or not sides[1].any():
        return None
    value = float(values[sides[0]].mean() - values[sides[1]].mean())
    influence = np.zeros(len(values))
    for sign, side in zip((1, -1), sides, strict=True):
        influence[side] = sign * (values[side] - values[side].mean()) / side.sum()
    both = sides[0] | sides[1]
    variance, freedom = two_way_variance(influence[both], raters[both], prompts[both])
    if freedom < 1:
        return None
    stderr = float(np.sqrt(variance)) * int(both.sum())
    width = float(stats.t.ppf(0.975, freedom)) * stderr
    return Interval(value, value - width, value + width, stderr, f"two-way clustered, t with {freedom} df")


def sentence(each: MeanDifference) -> str:
    """Returns a difference in words, also when none was shown."""
    text = f"{each['criterion']}: {each['a']} minus {each['b']} {each['value']:+.2f}"
    text += f" (95% interval {each['low']:+.2f} to {each['high']:+.2f})"
    if each["low"] > 0 or each["high"] < 0:
        return f"{text}: {each['a'] if each['low'] > 0 else each['b']} is better"
    return f"{text}: no difference shown"
