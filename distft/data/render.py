"""Rendering: an Example as the text that the model reads, with the character spans that are trained.

A chat template does not report where it puts the content of a message. So each chat is rendered a second time with a
marker in place of every assistant content. The text around the markers comes from the template, and the real rendering
must equal it with the contents in the gaps; otherwise the row or the template is refused.
Trap: spans found by token ids or by `{% generation %}` tags, which most stock templates lack, train on nothing or on
the user's text.
A template that prints the current date gets a fixed one, else tokens would depend on the day of the preparation.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jinja2

from distft.data.example import BadField, Example, Segment

SEED_DATE = "2024-07-26"  # the default date of Llama 3's template
LETTER = "A"  # begins an answer; a token may join it with the space before it, which then is not the prompt's
DATE_FORMS = [f"%{flag}{letter}" for letter in "aAbBcdFHIjmMpSTuUVwWxXyYe" for flag in ("", "-")]
CHAT_ROLES = {"system": "system", "user": "user", "assistant": "assistant", "prompt": "user", "completion": "assistant"}


class TemplateRefused(ValueError):
    """The trained spans of a chat template cannot be determined."""


@dataclass(frozen=True)
class Rendered:
    """The text of one row, and its trained spans as (start, end) character positions."""

    text: str
    spans: tuple[tuple[int, int], ...]
    add_bos: bool = False  # plain text: add the tokenizer's bos and eos tokens
    add_eos: bool = False


class PlainRenderer:
    """Concatenates the segments unchanged; for tokenizers without a template, and for plain text.

    `chat_template` is the text of the template in use; `ends` collects the special tokens that end trained text.
    """

    def __init__(self, end: str | None = None) -> None:
        """end: the tokenizer's end-of-text token, which is trained."""
        self.chat_template: str | None = None
        self.end, self.ends = end, set[str]()

    date = None

    def __call__(self, example: Example) -> Rendered:
        if any(segment.role in ("user", "assistant") for segment in example.segments):
            raise TemplateRefused(
                "messages need a chat template, and the tokenizer has none. Try: model.tokenizer=FOLDER of one with a "
                "template, or data.chat_template=FILE.jinja"
            )
        text, spans = "", []
        for segment in example.segments:
            if segment.train:
                spans.append((len(text), len(text) + len(segment.text)))
            text += segment.text
        if example.segments[-1].train and self.end:
            self.ends.add(self.end)
        return Rendered(text, tuple(spans), add_bos=True, add_eos=example.segments[-1].train)

    def prompt(self, example: Example) -> Rendered:
        """Returns the row of a prompt, with LETTER as its trained answer."""
        text = self(example).text
        return Rendered(text + LETTER, ((len(text), len(text) + 1),), add_bos=True)


class ChatRenderer:
    """Renders the segments with the tokenizer's chat template; raises TemplateRefused where it hides the spans."""

    def __init__(self, tokenizer: Any, template: str | None = None, date: str = SEED_DATE) -> None:
        self.tokenizer, self.template = tokenizer, template
        text: str = tokenizer.get_chat_template(template)
        self.chat_template: str | None = text
        self.date = date if "strftime_now" in text else None  # the date that the template prints
        if self.date:
            self.template = _with_day(text, date)
        added = sorted((str(token) for token in tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
        self.end_of_turn = re.compile(r"\s*(?:" + "|".join(map(re.escape, added)) + ")")
        self.plain = PlainRenderer(tokenizer.eos_token)
        self.ends = self.plain.ends  # the special tokens that end trained turns
        self._check()
        self.ends.clear()  # without those of the check

    def __call__(self, example: Example) -> Rendered:
        """Returns the rendering; raises BadField where the template rejects the row or changes an assistant content."""
        if example.segments[0].role == "text":
            return self.plain(example)
        messages = [{"role": CHAT_ROLES[part.role], "content": part.text} for part in example.segments]
        text = self._render(messages)
        spans = []
        for index, (start, end) in self._contents(messages, text).items():
            if example.segments[index].train:
                spans.append((start, self._end_of_turn(text, end)))
        return Rendered(text, tuple(spans))

    def prompt(self, example: Example) -> Rendered:
        """Returns the row of a prompt, with LETTER as its trained answer, where the template puts the assistant's text.

        Where the template changes or hides that text, it follows the template's own generation prompt.
        """
        if example.segments[0].role == "text":
            return self.plain.prompt(example)
        messages = [{"role": CHAT_ROLES[part.role], "content": part.text} for part in example.segments]
        pieces = self._around([*messages, {"role": "assistant", "content": ""}], [len(messages)])
        text = pieces[0] if pieces else self._render(messages, add_generation_prompt=True)
        return Rendered(text + LETTER, ((len(text), len(text) + 1),))

    def _contents(self, messages: list[dict[str, str]], text: str) -> dict[int, tuple[int, int]]:
        """Returns message index -> (start, end) of each assistant content in `text`."""
        turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        pieces = self._around(messages, turns)
        for strip in (str, str.strip):
            contents = [strip(messages[index]["content"]) for index in turns]
            if pieces and text == "".join(map("".join, zip(pieces, [*contents, ""], strict=True))):
                return dict(zip(turns, _positions(pieces, contents), strict=True))
        return {index: self._one_content(messages, text, index) for index in turns}

    def _around(self, messages: list[dict[str, str]], turns: Sequence[int]) -> list[str] | None:
        """Returns the template's text before, between and after the contents of `turns`; None if a marker is lost."""
        markers = {index: _marker(index) for index in turns}
        marked = [message | {"content": markers.get(i, message["content"])} for i, message in enumerate(messages)]
        text = self._render(marked)
        if any(text.count(marker) != 1 for marker in markers.values()):
            return None
        pieces = re.split("|".join(markers.values()), text) if markers else [text]
        return pieces

    def _one_content(self, messages: list[dict[str, str]], text: str, index: int) -> tuple[int, int]:
        """Returns the span of a content that the template changes: trims it, or splits it into thinking and answer."""
        content = messages[index]["content"]
        pieces = self._around(messages, [index])
        if pieces:
            before, after = pieces
            for start in (before, self._render(messages[:index], add_generation_prompt=True)):
                kept = text[len(start) : len(text) - len(after)]
                if (
                    text == start + kept + after
                    and _without_spaces(kept)
                    and _without_spaces(kept) in _without_spaces(content)
                ):
                    return len(start), len(start) + len(kept)
        raise BadField(f"messages[{index}].content", "the chat template changes it beyond recognition")

    def _end_of_turn(self, text: str, end: int) -> int:
        """Returns the position after the turn's end token, which is trained so that the model learns to stop."""
        found = self.end_of_turn.match(text, end)
        if found is None:
            raise TemplateRefused(
                f"the chat template ends an assistant's turn with {text[end : end + 20]!r}, which is not a special "
                "token of the tokenizer, so the model would not learn to stop"
            )
        self.ends.add(found[0].strip())
        return found.end()

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool = False) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                messages, chat_template=self.template, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except jinja2.TemplateError as error:
            raise BadField("messages", f"the chat template refuses them: {error}") from None

    def _check(self) -> None:
        """Raises TemplateRefused unless one turn gives its span and at most one bos token; runs before any row."""
        try:
            rendered = self(Example((Segment("user", "Question", False), Segment("assistant", "Answer", True))))
        except BadField as error:
            raise TemplateRefused(f"the chat template hides what the assistant says ({error})") from None
        bos = self.tokenizer.bos_token
        if bos and rendered.text.startswith(bos * 2):
            raise TemplateRefused(f"the chat template begins with two {bos} tokens")


def make_renderer(tokenizer: Any, chat_template: str, date: str = SEED_DATE) -> "ChatRenderer | PlainRenderer":
    """Returns the renderer for data.chat_template.

    chat_template: `auto`, `none`, or the text of a template. date: YYYY-MM-DD, the current date in the template.
    """
    if chat_template == "none" or (chat_template == "auto" and not tokenizer.chat_template):
        return PlainRenderer(tokenizer.eos_token)
    return ChatRenderer(tokenizer, None if chat_template == "auto" else chat_template, date)


def _with_day(template: str, date: str) -> str:
    """Returns the template with a `strftime_now` that prints midnight of that date instead of the current time.

    It is a macro inside the template, because transformers passes no functions to a template.
    """
    day = datetime.strptime(date, "%Y-%m-%d")
    printed = "".join(f" | replace({form!r}, {day.strftime(form)!r})" for form in DATE_FORMS)
    return f"{{% macro strftime_now(format) %}}{{{{ format{printed} }}}}{{% endmacro %}}\n{template}"


def _marker(index: int) -> str:
    return f"Kq7marker{index}x"


def _positions(pieces: Sequence[str], contents: Sequence[str]) -> list[tuple[int, int]]:
    found, position = [], 0
    for piece, content in zip(pieces, contents, strict=False):
        position += len(piece)
        found.append((position, position + len(content)))
        position += len(content)
    return found


def _without_spaces(text: str) -> str:
    return "".join(text.split())
