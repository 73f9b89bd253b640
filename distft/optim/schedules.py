"""Learning-rate schedules: a factor of optimizer.lr for each optimizer step, from the step number alone.

Step i of n (from 1) uses factor(i). Warm-up is linear from 1/warmup_steps, so the first step already learns.
"""

import math
from collections.abc import Callable

Factor = Callable[[int], float]


def _warm(warmup_steps: int, after: Factor) -> Factor:
    return lambda step: step / warmup_steps if step <= warmup_steps else after(step)


def _progress(step: int, start: int, total_steps: int) -> float:
    return (step - start) / max(1, total_steps - start)


def constant(total_steps: int, warmup_steps: int = 0) -> Factor:
    """Stays at 1 after the warm-up."""
    return _warm(warmup_steps, lambda step: 1.0)


def linear(total_steps: int, warmup_steps: int = 0, final_fraction: float = 0.0) -> Factor:
    """Falls on a line from 1 after the warm-up to `final_fraction` at the last step."""
    return _warm(warmup_steps, lambda step: 1 - (1 - final_fraction) * _progress(step, warmup_steps, total_steps))


def cosine(total_steps: int, warmup_steps: int = 0, final_fraction: float = 0.1) -> Factor:
    """Falls along half a cosine from 1 after the warm-up to `final_fraction` at the last step (arXiv 1608.03983)."""

    def after(step: int) -> float:
        fallen = (1 - math.cos(math.pi * _progress(step, warmup_steps, total_steps))) / 2
        return 1 - (1 - final_fraction) * fallen

    return _warm(warmup_steps, after)


def wsd(total_steps: int, warmup_steps: int = 0, decay_steps: int = 0, final_fraction: float = 0.0) -> Factor:
    """Warm-up, stable, decay: stays at 1 and falls on a line over the last `decay_steps` (arXiv 2404.06395)."""
    stable_until = max(warmup_steps, total_steps - decay_steps)

    def after(step: int) -> float:
        if step <= stable_until:
            return 1.0
        return 1 - (1 - final_fraction) * _progress(step, stable_until, total_steps)

    return _warm(warmup_steps, after)
