"""Where a run's time went, over all its attempts: from what it writes anyway, and a line at each turn of an attempt."""

from distft.goodput.account import write_goodput

__all__ = ["write_goodput"]
