"""Learning-rate schedules: a factor of optimizer.lr for each optimizer step, from the step number alone.

Step i of n (from 1) uses factor(i). Warm-up is linear from 1/warmup_steps, so the first step already learns; the last
step has the end value. transformers' schedules of the same names use i - 1 in step i: their first warm-up step learns
nothing, and the end value comes after the last step. A run of one step has the full rate.
Steps below 1 are a share of the run's, rounded up.
"""

import math
from collections.abc import Callable

Factor = Callable[[int], float]


def whole_steps(steps: float, total_steps: int) -> int:
    """Returns a number of optimizer steps; values below 1 are a share of `total_steps`."""
    return math.ceil(round(steps * total_steps, 6)) if steps < 1 else round(min(steps, 2**53))


def _scheduled(
    warmup_steps: float, total_steps: int, after: Callable[[float], float] | None, decay_steps: float = math.inf
) -> Factor:
    """Returns a warm-up, then 1, then `after` over the last `decay_steps`; `after` takes the finished share, 0 to 1."""
    warm = whole_steps(warmup_steps, total_steps)
    start = max(warm, total_steps - min(total_steps, whole_steps(decay_steps, total_steps)))

    def factor(step: float) -> float:
        if step <= warm:
            return step / warm
        if after is None or step <= start or total_steps == 1:
            return 1.0
        return after((step - start) / (total_steps - start))

    return factor


def constant(total_steps: int, warmup_steps: float = 0) -> Factor:
    """Stays at 1 after the warm-up."""
    return _scheduled(warmup_steps, total_steps, None)


def linear(total_steps: int, warmup_steps: float = 0, final_fraction: float = 0.0) -> Factor:
    """Falls on a line from 1 after the warm-up to `final_fraction` at the last step."""
    return _scheduled(warmup_steps, total_steps, lambda done: 1 - (1 - final_fraction) * done)


def cosine(total_steps: int, warmup_steps: float = 0, final_fraction: float = 0.1) -> Factor:
    """Falls along half a cosine from 1 after the warm-up to `final_fraction` at the last step (arXiv 1608.03983)."""

    def after(done: float) -> float:
        return 1 - (1 - final_fraction) * (1 - math.cos(math.pi * done)) / 2

    return _scheduled(warmup_steps, total_steps, after)


def wsd(total_steps: int, warmup_steps: float = 0, decay_steps: float = 0.1, final_fraction: float = 0.0) -> Factor:
    """Warm-up, stable, decay: stays at 1 and falls on a line over the last `decay_steps` (arXiv 2404.06395)."""
    return _scheduled(warmup_steps, total_steps, lambda done: 1 - (1 - final_fraction) * done, decay_steps)
