"""How answers are made, as `generate` and `chat` take it from their command lines."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What the command line sets. stop: texts that end an answer."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    batch_size: int = 16


def without_stop(text: str, stops: Sequence[str]) -> str:
    """Returns the text before the first stop text."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def parse(given: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """Returns the settings on a command line, and a message for each invalid one."""
    errors: list[str] = []

    def number(name: str, kind: type, low: float, high: float, rule: str) -> float:
        text = given.get(name)
        if text is None:
            return getattr(Settings, name)
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            errors.append(f"{name}={text}: is {rule}")
            return getattr(Settings, name)
        return value

    largest = 2**31 - 1
    found = Settings(
        max_new_tokens=int(number("max_new_tokens", int, 1, largest, "a whole number of at least 1")),
        temperature=number("temperature", float, 0, 100, "a number from 0, greedy, to 100"),
        top_p=number("top_p", float, 1e-9, 1, "a number above 0 and at most 1"),
        top_k=int(number("top_k", int, 0, largest, "a whole number; 0 keeps all tokens")),
        seed=int(number("seed", int, 0, 2**63 - 1, "a whole number of at least 0")),
        stop=stop_of(given.get("stop"), errors),
        batch_size=int(number("batch_size", int, 1, largest, "a whole number of at least 1")),
    )
    is_greedy = found.temperature == 0 and not any(error.startswith("temperature=") for error in errors)
    unused = [name for name in ("top_p", "top_k") if name in given] if is_greedy else []
    errors += [f"{name}={given[name]}: has no effect with temperature=0. Try: temperature=1" for name in unused]
    return found, errors


def stop_of(text: str | None, errors: list[str]) -> tuple[str, ...]:
    """Returns the stop texts: the text itself, or the items of a JSON list."""
    if text is None:
        return ()
    if not text.startswith("["):
        return (text,)
    try:
        stops = json.loads(text)
    except ValueError:
        stops = None
    if not isinstance(stops, list) or not stops or not all(isinstance(stop, str) and stop for stop in stops):
        errors.append(f'stop={text}: is a text, or a JSON list of texts such as ["###", "Q:"]')
        return ()
    return tuple(stops)
