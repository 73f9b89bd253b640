"""The suggested rate is where the loss falls fastest, well below divergence; without a fall there is none."""

import math

from distft.find_lr.suggestion import Smoother, has_diverged, rounded, suggest

RATES = [10 ** (-6 + 6 * i / 99) for i in range(100)]


def sigmoid_fall(middle: float) -> list[float]:
    """A loss that falls from 4 to 2, fastest per decade at the rate `middle`, and explodes a hundredfold later."""
    return [
        4 - 2 / (1 + math.exp(-6 * math.log10(rate / middle))) + 1e6 * max(0.0, rate / middle / 100 - 1)
        for rate in RATES
    ]


def test_the_suggestion_is_where_the_loss_falls_fastest() -> None:
    for middle in (1e-4, 1e-3):
        losses = sigmoid_fall(middle)
        end = next((i for i, loss in enumerate(losses) if loss > 20), len(losses))
        found = suggest(RATES[: end + 1], losses[: end + 1], ended_early=end < len(losses))
        assert found.rate and middle <= found.rate <= 4 * middle, "smoothing lags behind by a few steps"
        assert found.lowest_loss and 2 <= found.lowest_loss < 2.2


def test_the_suggestion_keeps_its_distance_to_divergence() -> None:
    losses = [4.0] * 50 + [4 - 0.15 * i for i in range(12)] + [100.0]
    found = suggest(RATES[: len(losses)], losses, ended_early=True)
    assert found.diverged_at == RATES[len(losses) - 1]
    assert found.rate == rounded(found.diverged_at / 10) and "a tenth of" in found.why


def test_no_fall_is_no_suggestion_with_advice() -> None:
    flat = suggest(RATES, [4.0 + 0.001 * (i % 3) for i in range(100)], ended_early=False)
    assert flat.rate is None and "did not fall at any rate. Try: a higher high=" in flat.why
    rising = suggest(RATES[:40], [4.0 + 0.1 * i for i in range(40)], ended_early=True)
    assert rising.rate is None and "never fell before it diverged" in rising.why
    short = suggest(RATES[:6], [4.0, 3.9, 3.8, 9.0, 90.0, math.nan], ended_early=True)
    assert short.rate is None and "diverged after 5 steps. Try: a lower low=" in short.why


def test_a_ramp_without_divergence_says_so() -> None:
    found = suggest(RATES, [4 - 0.02 * i for i in range(100)], ended_early=False)
    assert found.rate and found.diverged_at is None and "did not diverge up to 1" in found.why


def test_the_smoothing_of_a_constant_is_the_constant() -> None:
    smoother = Smoother()
    assert all(abs(smoother.add(3.0) - 3.0) < 1e-12 for _ in range(5))
    assert abs(smoother.add(1e9) - 3.0) < 1e-6, "one spike is no divergence"


def test_divergence_is_twice_the_lowest_or_not_finite() -> None:
    assert has_diverged(5.0, 2.0) and has_diverged(math.nan, 2.0) and has_diverged(math.inf, 2.0)
    assert not has_diverged(3.9, 2.0) and not has_diverged(0.0, 0.0)
