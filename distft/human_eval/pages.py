"""The pages of a study as HTML: Markdown without links, images or markup of its own, and one template per audience."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from statistics import median
from typing import Any

import nh3
from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from distft.human_eval.study import SCALE, Item, Settings
from distft.human_eval.votes import Page, Progress, Vote

# A link's address is part of an answer, and an image would be fetched from the address: both stay as they were typed.
_AS_TYPED = ["link", "image", "autolink", "html_block", "html_inline", "reference"]
_TAGS = set("p br hr strong em s code pre blockquote ul ol li h1 h2 h3 h4 h5 h6 table thead tbody tr th td".split())
_LONGEST_MARKDOWN = 20_000  # characters; longer text is shown as it is, since parsing may take quadratic time
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs a cell that begins with one


@dataclass(frozen=True)
class Shown:
    """A turn or an answer on a page."""

    html: Markup
    role: str = ""
    letter: str = ""


@dataclass(frozen=True)
class Feedback:
    """On a practice page that was just answered."""

    right: bool
    why: str


@dataclass(frozen=True)
class RaterRow:
    """A rater on the administrator's page. total, done: pages and votes; passed: of the attention checks."""

    name: str
    total: int
    done: int
    checks: int
    passed: int
    skipped: int
    seconds: float | None  # median


@dataclass(frozen=True)
class Pages:
    """Renders the pages of one study. nonce: of the response's content security policy."""

    settings: Settings
    items: dict[str, Item]

    @cached_property
    def _environment(self) -> Environment:
        loader = PackageLoader("distft.human_eval", ".")
        return Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )

    @cached_property
    def _cached(self) -> Callable[[str, bool], Markup]:
        return lru_cache(maxsize=4096)(to_html)  # raters see the same items

    def markdown(self, text: str, breaks: bool = False) -> Markup:
        """Returns text as HTML, see `to_html`."""
        return self._cached(text, breaks)

    def message(self, text: str, nonce: str) -> str:
        return self._rater(nonce, "message", message=text)

    def rater(self, progress: Progress, base: str, nonce: str, before: Page | None) -> str:
        """Returns the page that a rater is on. before: the practice page just answered."""
        settings = self.settings
        common = {
            "base": base,
            "done": progress.done,
            "total": progress.total,
            "last": progress.last and progress.last.slot,
        }
        instructions = self.markdown(settings.instructions)
        if not progress.consented:
            texts = {"consent": self.markdown(settings.consent), "contact": settings.contact, "pay": settings.pay}
            return self._rater(nonce, "consent", instructions=instructions, **common, **texts)
        if progress.current is None:
            return self._rater(nonce, "done", **common)
        page = progress.current
        item = self.items[page.item]
        role = str.capitalize if len(item.prompt) > 1 else lambda _: "Question"
        answers = item.answers[::-1] if page.swapped else item.answers
        return self._rater(
            nonce,
            "item",
            **common,
            instructions=instructions,
            slot=page.slot,
            practice=page.kind == "practice",
            feedback=self._feedback(before),
            prompt=[Shown(self.markdown(turn.text, breaks=True), role=role(turn.role)) for turn in item.prompt],
            answers=[Shown(self.markdown(text, breaks=True), letter="AB"[i]) for i, text in enumerate(answers)],
            criteria=settings.criteria if settings.type == "rating" else (),
            scale=SCALE,
            reasons=settings.reasons,
        )

    def _rater(self, nonce: str, phase: str, **values: Any) -> str:
        nothing = {"total": 0, "done": 0, "last": None, "base": ""}
        template = self._environment.get_template("rater.html.jinja")
        return template.render(nothing | values, heading=self.settings.title, nonce=nonce, phase=phase)

    def _feedback(self, before: Page | None) -> Feedback | None:
        if before is None or before.kind != "practice" or before.choice is None:
            return None
        item = self.items[before.item]
        return Feedback(passed(item, before.swapped, before.choice), item.why)

    def admin(
        self, raters: Iterable[tuple[str, int, int]], votes: Sequence[Vote], closed: bool, base: str, nonce: str
    ) -> str:
        """Returns the page of the administrator. raters: name, pages and votes of each."""
        rows = [self._rater_row(name, total, done, votes) for name, total, done in raters]
        counted = [vote for vote in votes if vote.kind not in ("practice", "attention")]
        template = self._environment.get_template("admin.html.jinja")
        return template.render(
            title=self.settings.title,
            nonce=nonce,
            closed=closed,
            raters=rows,
            done=sum(row.done for row in rows),
            total=sum(row.total for row in rows),
            choices=dict(sorted(Counter(vote.choice for vote in counted).items())),
            base=base,
        )

    def _rater_row(self, name: str, total: int, done: int, votes: Sequence[Vote]) -> RaterRow:
        own = [vote for vote in votes if vote.rater == name]
        checks = [vote for vote in own if vote.kind == "attention"]
        seconds = [vote.seconds for vote in own if vote.seconds is not None]
        return RaterRow(
            name=name,
            total=total,
            done=done,
            checks=len(checks),
            passed=sum(passed(self.items[vote.item], vote.swapped, vote.choice) for vote in checks),
            skipped=sum(vote.choice == "skip" for vote in own),
            seconds=median(seconds) if seconds else None,
        )


def to_html(text: str, breaks: bool) -> Markup:
    """Returns Markdown as HTML with the tags of _TAGS and no attribute. breaks: a line break of the text is shown."""
    if not text.strip():
        return Markup('<p class="empty">(no text)</p>')
    if len(text) > _LONGEST_MARKDOWN:
        return Markup("<pre>{}</pre>").format(text)
    parser = MarkdownIt("commonmark", {"html": False, "breaks": breaks})
    parser.enable(["table", "strikethrough"]).disable(_AS_TYPED)
    return Markup(nh3.clean(parser.render(text), tags=_TAGS, attributes={}))


def passed(item: Item, swapped: bool, choice: str) -> bool:
    """Returns whether a vote on a practice item or an attention check is the expected one."""
    other = {"a": "b", "b": "a"}
    return choice == (other[item.expected] if swapped else item.expected)


def votes_csv(votes: Iterable[Vote]) -> str:
    """Returns the blind votes as CSV; a cell that a spreadsheet would run as a formula begins with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    names = ["rater", "item", "kind", "swapped", "choice", "ratings", "reasons", "comment", "seconds"]
    writer.writerow(names)
    for vote in votes:
        cells = [
            ";".join(f"{k}={v}" for k, v in vote.ratings.items()) if n == "ratings" else getattr(vote, n) for n in names
        ]
        cells = [";".join(cell) if isinstance(cell, tuple) else cell for cell in cells]
        writer.writerow([f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell for cell in cells])
    return out.getvalue()
