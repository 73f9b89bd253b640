"""How a swept value stands in a table and on an axis: in order, at a place, under a short name."""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.ticker import MaxNLocator

MOST_LABELS = 8  # of one axis
FACTOR_FOR_LOG = 30  # wider than this, equal ratios are drawn as equal distances


@dataclass(frozen=True)
class Scale:
    """Where each value of one key lies; words, and mixtures with them, lie at 0, 1, 2 ..."""

    kind: Literal["linear", "log", "words"]
    choices: list[Any]  # each once, in order

    @classmethod
    def of(cls, values: Iterable[Any]) -> "Scale":
        """Returns the scale that shows these values best."""
        choices = sorted({text_key(value): value for value in values}.values(), key=order)
        numbers = [number for number in map(as_number, choices) if number is not None]
        if len(numbers) < len(choices):
            return cls("words", choices)
        wide = max(map(abs, numbers)) > FACTOR_FOR_LOG * min((abs(x) for x in numbers if x), default=math.inf)
        if not wide:
            return cls("linear", choices)
        # Zero has no place on a log axis, and a linear one would heap the small values up: one step for each.
        return cls("log" if numbers[0] > 0 else "words", choices)

    def place(self, value: Any) -> float:
        if self.kind == "words":
            return [text_key(choice) for choice in self.choices].index(text_key(value))
        number = as_number(value)
        assert number is not None
        return number

    def ticks(self) -> list[tuple[float, str]]:
        """Returns places and labels: the choices themselves, or of many numbers round ones between them."""
        if self.kind == "words" or len(self.choices) <= MOST_LABELS:
            return [(self.place(choice), shortened(value_text(choice))) for choice in self.choices]
        low, high = self.place(self.choices[0]), self.place(self.choices[-1])
        if self.kind == "linear":
            steps = MaxNLocator(nbins=5).tick_values(low, high)
            return [(float(place), number_text(float(place))) for place in steps if low <= place <= high]
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        factors = (1, 3) if len(powers) < MOST_LABELS / 2 + 1 else (1,)
        round_ones = [factor * 10.0**power for power in powers for factor in factors]
        inside = [place for place in round_ones if low <= place <= high]
        return [(place, number_text(place)) for place in inside[:: math.ceil(len(inside) / MOST_LABELS)]]

    def share(self, here: float) -> float:
        """Returns a place as a share of the axis: 0 at the first choice, 1 at the last."""
        low, high = self.place(self.choices[0]), self.place(self.choices[-1])
        if self.kind == "log":
            low, high, here = math.log(low), math.log(high), math.log(here)
        return (here - low) / (high - low) if high > low else 0.5


def as_number(value: Any) -> float | None:
    """Returns a finite number, also one that YAML reads as text (`1e-5`); None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def order(value: Any) -> tuple[bool, float, str]:
    """Returns what sorts numbers by size before words by letter."""
    number = as_number(value)
    return number is None, number or 0.0, value_text(value)


def text_key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def value_text(value: Any) -> str:
    """Returns a value as a user would type it, numbers to four digits: 1e-5, null, true."""
    if isinstance(value, float):
        return number_text(value)
    return value or "''" if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def number_text(value: float, digits: int = 4) -> str:
    """Returns 16384, 0.05 or, below a thousandth, 3e-4."""
    if value.is_integer() and abs(value) < 1e7:
        return f"{value:.0f}"
    text = f"{value:.{digits}g}"
    if abs(value) < 1e-3 and "e" not in text:
        text = re.sub(r"\.?0*e", "e", f"{value:.{digits - 1}e}")
    return re.sub(r"e([+-])0*", lambda found: "e" + found[1].strip("+"), text)


def loss_text(value: float) -> str:
    """Returns a loss to four decimals, or to four digits where these would not fit."""
    return f"{value:.4f}" if 0.01 <= abs(value) < 1000 or not value else number_text(value)


def shortened(text: str, length: int = 18) -> str:
    """Returns the text, or its beginning and its end around an ellipsis."""
    if len(text) <= length:
        return text
    end = (length - 1) // 2
    return f"{text[: length - 1 - end]}…{text[len(text) - end :]}"
