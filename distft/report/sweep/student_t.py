"""Student's t quantile, for which alone scipy would be a dependency."""

import math

_TINY = 1e-300


def quantile(probability: float, freedom: float) -> float:
    """Returns the t below which `probability` of Student's distribution lies; freedom > 0 need not be whole."""
    if probability < 0.5:
        return -quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    while below(high, freedom) < probability:
        low, high = high, 2 * high
    while (middle := (low + high) / 2) not in (low, high):  # until no float lies between
        low, high = (middle, high) if below(middle, freedom) < probability else (low, middle)
    return high


def below(t: float, freedom: float) -> float:
    """Returns the share of Student's distribution below t >= 0."""
    return 1 - incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5) / 2


def incomplete_beta(x: float, a: float, b: float) -> float:
    """Returns the regularised incomplete beta function I_x(a, b) (DLMF 8.17.22; mirrored where it converges faster)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    return front / _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """Returns 1 + d1/(1 + d2/(1 + ...)) by Lentz's method."""
    value, above, under = 1.0, 1.0, 0.0
    for number in range(1, 10_000):
        m = number // 2
        top = m * (b - m) * x if number % 2 == 0 else -(a + m) * (a + b + m) * x
        term = top / ((a + number - 1) * (a + number))
        under = 1 / (1 + term * under or _TINY)
        above = 1 + term / above or _TINY
        value *= above * under
        if abs(above * under - 1) < 1e-15:
            return value
    raise AssertionError(f"the fraction of I_{x}({a}, {b}) does not converge")
