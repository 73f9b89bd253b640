"""What raters read when the study brings no texts of its own: consent, instructions, practice, attention checks."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distft.config.errors import ConfigError
from distft.human_eval.study import Item, Turn
from distft.paths import absolute

CONSENT = """## Before you begin

You will read questions, each with answers written by computer programs, and give your opinion of them.

- Taking part is voluntary. You can stop at any time, and skip any page.
- Your votes, comments and the time per page are stored under a number, without your name or address.
- Some answers may be wrong, and some may be offensive. Skip what you do not want to read.
"""
PAIRWISE = """## What to do

Each page has a question and two answers, **A** and **B**. Read both and choose the one that helps the person who asked
more. Correct comes first, then complete, then clear. Length alone is not a merit.

- **Tie**: both are equally good.
- **Both bad**: neither helps.
- **Skip**: you cannot judge this one, for example for lack of knowledge.

You can give reasons. You can undo your last vote. The first pages are for practice.
"""
RATING = """## What to do

Each page has a question and one answer. Rate the answer on each scale from 1, worst, to 5, best.
**Skip** a page that you cannot judge. You can undo your last vote.
"""
REASONS = ("more correct", "more complete", "clearer", "better style", "safer")
CRITERIA = ("helpful", "correct")

_PRACTICE = [
    ("Which planet is closest to the sun?", "Mercury is closest to the sun.", "The sun is a star.",
     "Only the sentence about Mercury answers the question."),
    ("Write one short sentence about rain.", "Rain rain rain rain rain rain rain.", "Rain taps softly on the roof.",
     "Only the one about the roof is a sentence."),
]  # fmt: skip
_CHECKS = [
    (
        "This page checks attention. There is no question.",
        "Please choose the other answer.",
        "Please choose this answer.",
    ),
    ("A short check: please follow the text of the answers.", "This is the one to choose.", "Do not choose this one."),
    ("Please read both answers to the end.", "For this page, choose the other one.", "For this page, choose this one."),
    ("No question here: this page shows that you read the answers.", "Choose me, please.", "Please do not choose me."),
]
_CHECKED = "baba"  # the expected answer of each


@dataclass(frozen=True)
class Practice:
    """A practice page: a line of the practice file. expected: a or b; why: shown after the vote."""

    prompt: str
    a: str
    b: str
    expected: str
    why: str = ""


def practice_items(rows: list[Practice] | None, new_id: Iterator[str]) -> list[Item]:
    """Returns the practice items, the built-in ones without rows."""
    if rows is None:
        expected = "ab"
        rows = [Practice(prompt, a, b, expected[i], why) for i, (prompt, a, b, why) in enumerate(_PRACTICE)]
    return [Item(next(new_id), (Turn("user", row.prompt),), (row.a, row.b), row.expected, row.why) for row in rows]


def attention_items(new_id: Iterator[str]) -> list[Item]:
    return [
        Item(next(new_id), (Turn("user", prompt),), (a, b), expected)
        for (prompt, a, b), expected in zip(_CHECKS, _CHECKED, strict=True)
    ]


def read_text(key: str, file: str) -> str:
    """Returns a text file of the user's; ConfigError when it cannot be read or is empty."""
    path: Path = absolute(file)
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigError([f"{key}={file}: {why}. Try: a Markdown file"]) from error
    if not text:
        raise ConfigError([f"{key}={file}: is empty. Try: a Markdown file"])
    return text
