"""An Example as the text a model reads, with the stretches of it that are trained on.

A chat template says nowhere where a message's content ends up, so it is asked: rendered once more with every
assistant's content replaced by a marker. What stands around the markers is the template's, and the true rendering must
be exactly that with a content in each gap; where it is not, the row or the template is refused, never guessed at.
Trap: training on a span found by token ids or by `{% generation %}` tags, which most stock templates lack, learns
nothing or learns the user's text (R-25, R-26).
A template that prints today's date gets one fixed day, or rows would differ by the day they were prepared on.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jinja2

from distft.data.example import BadField, Example, Segment

SEED_DATE = "2024-07-26"  # what Llama 3's template takes for today where nothing tells it
CHAT_ROLES = {"system": "system", "user": "user", "assistant": "assistant", "prompt": "user", "completion": "assistant"}


class TemplateRefused(ValueError):
    """A chat template whose trained spans cannot be determined."""


@dataclass(frozen=True)
class Rendered:
    """The text of one row, and the spans of it that are trained, as character positions."""

    text: str
    spans: tuple[tuple[int, int], ...]
    add_bos: bool = False  # plain text: the tokenizer's own begin and end tokens go around it
    add_eos: bool = False


class PlainRenderer:
    """Puts the segments together as they are; for tokenizers without a template, and for plain text.

    `chat_template` is the text of the template in use, `ends` collects the special tokens that trained text ended with.
    """

    def __init__(self, end: str | None = None) -> None:
        """end: the tokenizer's end of text, which is trained."""
        self.chat_template: str | None = None
        self.end, self.ends = end, set[str]()

    def __call__(self, example: Example) -> Rendered:
        if any(segment.role in ("user", "assistant") for segment in example.segments):
            raise TemplateRefused(
                "messages need a chat template and there is none: set model.tokenizer to one that has it, "
                "or data.chat_template to a .jinja file"
            )
        text, spans = "", []
        for segment in example.segments:
            if segment.train:
                spans.append((len(text), len(text) + len(segment.text)))
            text += segment.text
        if example.segments[-1].train and self.end:
            self.ends.add(self.end)
        return Rendered(text, tuple(spans), add_bos=True, add_eos=example.segments[-1].train)


class ChatRenderer:
    """Puts the segments through the tokenizer's chat template; TemplateRefused where that hides the spans."""

    def __init__(self, tokenizer: Any, template: str | None = None, date: str = SEED_DATE) -> None:
        self.tokenizer, self.template = tokenizer, template
        self.day = _day(date)
        self.printed: set[str] = set()  # the forms in which the template printed the day
        self.chat_template: str | None = tokenizer.get_chat_template(template)
        added = sorted((str(token) for token in tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
        self.end_of_turn = re.compile(r"\s*(?:" + "|".join(map(re.escape, added)) + ")")
        self.plain = PlainRenderer(tokenizer.eos_token)
        self.ends = self.plain.ends  # with the special tokens that trained turns have ended with
        self._check()
        self.ends.clear()  # the check's own

    def __call__(self, example: Example) -> Rendered:
        """Returns the rendering; BadField where the template refuses the row or changes what the assistant says."""
        if example.segments[0].role == "text":
            return self.plain(example)
        messages = [{"role": CHAT_ROLES[part.role], "content": part.text} for part in example.segments]
        text = self._render(messages)
        spans = []
        for index, (start, end) in self._contents(messages, text).items():
            if example.segments[index].train:
                spans.append((start, self._end_of_turn(text, end)))
        return Rendered(text, tuple(spans))

    def _contents(self, messages: list[dict[str, str]], text: str) -> dict[int, tuple[int, int]]:
        """Returns where each assistant's content stands in `text`, by the number of its message."""
        turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        pieces = self._around(messages, turns)
        for strip in (str, str.strip):
            contents = [strip(messages[index]["content"]) for index in turns]
            if pieces and text == "".join(map("".join, zip(pieces, [*contents, ""], strict=True))):
                return dict(zip(turns, _positions(pieces, contents), strict=True))
        return {index: self._one_content(messages, text, index) for index in turns}

    def _around(self, messages: list[dict[str, str]], turns: Sequence[int]) -> list[str] | None:
        """Returns the renderings before, between and after the contents of `turns`; None if one does not come back."""
        markers = {index: _marker(index) for index in turns}
        marked = [message | {"content": markers.get(i, message["content"])} for i, message in enumerate(messages)]
        text = self._render(marked)
        if any(text.count(marker) != 1 for marker in markers.values()):
            return None
        pieces = re.split("|".join(markers.values()), text) if markers else [text]
        return pieces

    def _one_content(self, messages: list[dict[str, str]], text: str, index: int) -> tuple[int, int]:
        """Returns the place of one content that the template changes: trims, or splits into thinking and answer."""
        content = messages[index]["content"]
        pieces = self._around(messages, [index])
        if pieces:
            before, after = pieces
            for start in (before, self._render(messages[:index], add_generation_prompt=True)):
                kept = text[len(start) : len(text) - len(after)]
                if text == start + kept + after and _squeezed(kept) and _squeezed(kept) in _squeezed(content):
                    return len(start), len(start) + len(kept)
        raise BadField(f"messages[{index}].content", "the chat template changes it beyond recognition")

    def _end_of_turn(self, text: str, end: int) -> int:
        """Returns the position after the special token that ends the turn, so that the model learns to stop."""
        found = self.end_of_turn.match(text, end)
        if found is None:
            raise TemplateRefused(
                f"the chat template ends an assistant's turn with {text[end : end + 20]!r}, which is no special token "
                "of the tokenizer, so the model would not learn to stop"
            )
        self.ends.add(found[0].strip())
        return found.end()

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool = False) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                messages,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                strftime_now=self._print_day,
            )
        except jinja2.TemplateError as error:
            raise BadField("messages", f"the chat template refuses them: {error}") from None

    def _print_day(self, form: str) -> str:
        """Stands in for transformers' own, which tells the time of the rendering."""
        printed = self.day.strftime(form)
        self.printed.add(printed)
        return printed

    def _check(self) -> None:
        """Refuses the template before any row: one turn must give its span, and one begin token at most."""
        try:
            rendered = self(Example((Segment("user", "Question", False), Segment("assistant", "Answer", True))))
        except BadField as error:
            raise TemplateRefused(f"the chat template hides what the assistant says ({error})") from None
        bos = self.tokenizer.bos_token
        if bos and rendered.text.startswith(bos * 2):
            raise TemplateRefused(f"the chat template begins with two {bos} tokens")


def make_renderer(tokenizer: Any, chat_template: str, date: str = SEED_DATE) -> "ChatRenderer | PlainRenderer":
    """Returns the renderer for data.chat_template: `auto`, `none`, or the text of a template; `date` is its today."""
    if chat_template == "none" or (chat_template == "auto" and not tokenizer.chat_template):
        return PlainRenderer(tokenizer.eos_token)
    return ChatRenderer(tokenizer, None if chat_template == "auto" else chat_template, date)


def _day(date: str) -> datetime:
    try:
        return datetime.strptime(date, "%Y-%m-%d")
    except ValueError:
        raise ValueError(f"data.seed_date={date} is no day of the calendar. Try: data.seed_date={SEED_DATE}") from None


def _marker(index: int) -> str:
    return f"Kq7marker{index}x"


def _positions(pieces: Sequence[str], contents: Sequence[str]) -> list[tuple[int, int]]:
    found, position = [], 0
    for piece, content in zip(pieces, contents, strict=False):
        position += len(piece)
        found.append((position, position + len(content)))
        position += len(content)
    return found


def _squeezed(text: str) -> str:
    return "".join(text.split())
