"""Judges: which of two answers to a prompt is better. One file each, chosen by `judge=endpoint`, with options as keys:
`endpoint.model=NAME`.

A judge is a module of this package with a class `Judge`. Its constructor takes the options, with defaults, and raises
ValueError for wrong ones. It has
  identity     what its verdicts depend on apart from the question, by name; the key of the cache
  prices       US dollars for a million tokens of input and of output; None where it costs nothing, or is not known
  is_remote    whether answers leave this machine, with a secret of its environment
  __call__     questions -> (number of the question, Reply), each as it comes; RuntimeError where it gives up
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from distft.config.errors import did_you_mean, nearest

_COMMON = ("pairs",)  # modules here that are no judges


@dataclass(frozen=True)
class Question:
    """Two answers to a prompt, in the order in which the judge sees them. expected: of the row, where it has one."""

    prompt: str
    first: str
    second: str
    expected: str | None = None


@dataclass(frozen=True)
class Reply:
    """What a judge answered: a text that names A, B or a tie, and what it cost in tokens."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0


class JudgeLike(Protocol):
    @property
    def identity(self) -> Mapping[str, str]: ...

    @property
    def prices(self) -> Sequence[float] | None: ...

    @property
    def is_remote(self) -> bool: ...

    def __call__(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply]]: ...


def available() -> list[str]:
    """Returns the names of all judges."""
    return sorted(each.name for each in pkgutil.iter_modules(__path__) if each.name not in _COMMON)


def is_option(key: str) -> bool:
    """Returns whether a key is an option of a judge: `endpoint.model`."""
    name, dot, _ = key.partition(".")
    return bool(dot) and name in available()


def make_judge(name: str | None, options: Mapping[str, Any]) -> tuple[JudgeLike | None, list[str]]:
    """Returns the judge of that name, and a message for each wrong name or option.

    options: `judge.option` -> value, as on the command line.
    """
    unused = [key for key in options if key.partition(".")[0] != name]
    errors = [f"{key}: has no effect without judge={key.partition('.')[0]}" for key in unused]
    if name is None:
        return None, errors
    if name not in available():
        meant = did_you_mean(nearest(name, available()))
        return None, [*errors, f"judge={name}: is not a judge.{meant} Allowed: {', '.join(available())}"]
    judge_class = importlib.import_module(f"{__name__}.{name}").Judge
    takes = list(inspect.signature(judge_class).parameters)
    given = {key.partition(".")[2]: value for key, value in options.items() if key not in unused}
    unknown = [option for option in given if option not in takes]
    if unknown:
        errors += [f"{name}.{each}: there is no such option.{did_you_mean(nearest(each, takes))}" for each in unknown]
        return None, errors
    try:
        return judge_class(**given), errors
    except (ValueError, ImportError) as error:
        return None, [*errors, f"judge={name}: {error}"]
