"""Values of `distft human_eval` from the command line: lists, numbers, shares, with all errors collected."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Arguments:
    """Reads typed values of the given keys; `errors` gets a message for each invalid one."""

    given: Mapping[str, str]
    errors: list[str] = field(default_factory=list)

    def words(self, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Returns a list: `[a,b]`, a JSON list, or one word."""
        if key not in self.given:
            return default
        text = self.given[key].strip()
        if not text.startswith("["):
            return (text,)
        try:
            values = json.loads(text)
        except ValueError:
            values = [each.strip().strip("\"'") for each in text[1:].removesuffix("]").split(",")]
        found = tuple(str(value) for value in values if str(value))
        if not text.endswith("]") or not found:
            self.errors.append(f"{key}={text}: expected a list such as [a,b]")
        return found

    def integer(self, key: str, default: int, low: int, high: int = 2**31 - 1) -> int:
        try:
            value = int(self.given.get(key, default))
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            limit = f"at least {low}" if high == 2**31 - 1 else f"from {low} to {high}"
            self.errors.append(f"{key}={self.given.get(key)}: expected a whole number, {limit}")
            return default
        return value

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """Returns a number from low to high."""
        try:
            value = float(self.given.get(key, default))
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            self.errors.append(f"{key}={self.given.get(key)}: expected a number from {low:g} to {high:g}")
            return default
        return value

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        """Returns one of the allowed words, by default the first."""
        from distft.config.errors import did_you_mean, nearest

        value = self.given.get(key, allowed[0])
        if value not in allowed:
            meant = did_you_mean(nearest(value, allowed))
            self.errors.append(f"{key}={value}: is not a choice.{meant} Allowed: {', '.join(allowed)}")
        return value

    def flag(self, key: str) -> bool:
        return self.choice(key, ("false", "true")) == "true"
