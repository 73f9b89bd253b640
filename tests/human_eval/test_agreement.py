"""Alpha and kappa equal those of the krippendorff package and statsmodels."""

import krippendorff
import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa, to_table

from distft.human_eval.agreement import Level, cohen_kappa, krippendorff_alpha, mean_kappa


def ratings(seed: int, raters: int = 6, items: int = 40, values: int = 4) -> np.ndarray:
    """Returns [raters, items] with missing ones as NaN; raters agree in part."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(values, size=items)
    given = np.where(rng.random((raters, items)) < 0.5, truth, rng.integers(values, size=(raters, items))).astype(float)
    given[rng.random((raters, items)) < 0.4] = np.nan
    return given


def counts_of(given: np.ndarray, values: int) -> np.ndarray:
    return np.stack([(given == value).sum(0) for value in range(values)], 1)


@pytest.mark.parametrize("level", ["nominal", "interval"])
@pytest.mark.parametrize("seed", range(4))
def test_alpha_is_that_of_krippendorff(seed: int, level: Level):
    given = ratings(seed)
    expected = krippendorff.alpha(reliability_data=given, level_of_measurement=level, value_domain=[0, 1, 2, 3])
    found = krippendorff_alpha(counts_of(given, 4), range(4), level, np.random.default_rng(0))
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert found.low is not None and found.high is not None and found.low < expected < found.high


def test_alpha_of_the_textbook_example():
    nan = np.nan  # Krippendorff, Computing Krippendorff's alpha-reliability (2011), part C
    given = np.array([
        [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan], [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
        [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan], [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan]])  # fmt: skip
    found = krippendorff_alpha(counts_of(given - 1, 5), range(5), "nominal", np.random.default_rng(0))
    assert found.value == pytest.approx(0.743, abs=5e-4)


def test_alpha_without_overlap_or_variation_is_not_a_number():
    rng = np.random.default_rng(0)
    alone = krippendorff_alpha(np.array([[1, 0], [0, 1]]), range(2), "nominal", rng)
    assert (alone.value, alone.items) == (None, 0)
    assert krippendorff_alpha(np.array([[2, 0], [2, 0]]), range(2), "nominal", rng).value is None


@pytest.mark.parametrize("seed", range(4))
def test_kappa_is_that_of_statsmodels(seed: int):
    given = np.nan_to_num(ratings(seed, raters=2)).astype(int)
    expected = cohens_kappa(to_table(given.T)[0]).kappa
    one, other = ([str(value) for value in row] for row in given)
    assert cohen_kappa(one, other) == pytest.approx(expected, abs=1e-9)


def test_mean_kappa_weights_pairs_by_shared_items():
    votes = {"x": {"1": "a", "2": "b", "3": "a"}, "y": {"1": "a", "2": "b", "3": "b"}, "z": {"9": "a"}}
    found, pairs = mean_kappa(votes)
    assert pairs == 1 and found == pytest.approx(cohen_kappa(["a", "b", "a"], ["a", "b", "b"]))
    assert mean_kappa({"x": {"1": "a"}}) == (None, 0)
