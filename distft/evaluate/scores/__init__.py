"""Scores of answers: one file each, chosen by `scores=[exact_match,f1]`, with options as keys: `bleu.tokenize=intl`.

A score is a module of this package with a class `Score`. Its constructor takes the options, with defaults, and raises
ValueError for wrong ones. It has
  metrics      name -> value(sums): what the counts of all items give together, as `distft.evaluate.statistics` has it
  binary       names of the metrics of 0 or 1 by item
  __call__     (answer, expected) -> name -> counts of this item, [K]
  normalization  what is done to texts before they are compared, in words; recorded with the results
"""

import importlib
import inspect
import pkgutil
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from distft.config.errors import did_you_mean, nearest
from distft.evaluate.statistics import Value

Counts = Sequence[float]
_ARTICLES = re.compile(r"\b(a|an|the)\b")
NORMALIZATIONS = {
    "squad": "lower case, without punctuation, a, an, the, and extra spaces (SQuAD)",
    "none": "without spaces at both ends",
}


class ScoreLike(Protocol):
    metrics: Mapping[str, Value]
    binary: frozenset[str]
    normalization: str

    def __call__(self, answer: str, expected: str) -> Mapping[str, Counts]: ...


def available() -> list[str]:
    """Returns the names of all scores."""
    return sorted(each.name for each in pkgutil.iter_modules(__path__))


def make_scores(names: Sequence[str], options: Mapping[str, Any]) -> tuple[dict[str, ScoreLike], list[str]]:
    """Returns the scores by name, and a message for each wrong name or option.

    options: `score.option` -> value, as on the command line.
    """
    errors = [
        f"scores: {name} is not a score.{did_you_mean(nearest(name, available()))} Allowed: {', '.join(available())}"
        for name in names
        if name not in available()
    ]
    found: dict[str, ScoreLike] = {}
    for name in dict.fromkeys(each for each in names if each in available()):
        given = {key.partition(".")[2]: value for key, value in options.items() if key.partition(".")[0] == name}
        score_class = importlib.import_module(f"{__name__}.{name}").Score
        takes = list(inspect.signature(score_class).parameters)
        unknown = [option for option in given if option not in takes]
        errors += [f"{name}.{each}: there is no such option.{did_you_mean(nearest(each, takes))}" for each in unknown]
        if unknown:
            continue
        try:
            found[name] = score_class(**given)
        except (ValueError, ImportError) as error:
            errors.append(f"scores={name}: {error}")
    unused = [key for key in options if key.partition(".")[0] not in names]
    return found, errors + [f"{key}: has no effect without scores=[{key.partition('.')[0]}]" for key in unused]


def normalizer(word: str) -> str:
    """Returns the description of a normalization; ValueError for another word."""
    if word not in NORMALIZATIONS:
        raise ValueError(f"normalize={word}. Allowed: {', '.join(NORMALIZATIONS)}")
    return NORMALIZATIONS[word]


def normalized(text: str, word: str) -> str:
    """Returns the text as `squad` or `none` compares it."""
    if word == "none":
        return text.strip()
    kept = "".join(letter for letter in text.lower() if not _is_punctuation(letter))
    return " ".join(_ARTICLES.sub(" ", kept).split())


def _is_punctuation(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")
