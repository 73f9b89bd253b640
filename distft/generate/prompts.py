"""Prompts: lines of a file, or the held-out rows of a run, as the tokens that the model was trained to answer.

A prompt is rendered as the rows were: with the run's chat template, up to where the assistant's text begins. A template
may put more there than its generation prompt does; Qwen 3's closes an empty thinking block.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from distft.config import ConfigError
from distft.config.errors import did_you_mean, nearest
from distft.data.example import BadField, Example, Segment
from distft.data.formats.messages import ROLES
from distft.data.render import LETTER, ChatRenderer, PlainRenderer, TemplateRefused
from distft.data.shards import Row, Rows
from distft.data.tokenize import RowTokenizer

FIELDS = ("prompt", "messages", "id")
SHOWN_ERRORS = 10
Renderer = ChatRenderer | PlainRenderer


@dataclass(frozen=True)
class Request:
    """One prompt. given: what the answer's line begins with (prompt or messages, id). where: file and line."""

    given: Mapping[str, Any]
    token_ids: Sequence[int]
    where: str
    expected: str | None = None  # of a held-out row


@dataclass(frozen=True)
class PromptRenderer:
    """Turns text or messages into the tokens of a prompt. is_plain: the run's rows were text without a template."""

    renderer: Renderer
    tokenizer: Any
    is_plain: bool = False

    def __call__(self, example: Example) -> list[int]:
        """Returns the tokens; BadField for messages that the template refuses, TemplateRefused without a template."""
        renderer = self.renderer
        if self.is_plain and isinstance(renderer, ChatRenderer) and example.segments[0].role == "prompt":
            renderer = renderer.plain
        [made] = RowTokenizer(self.tokenizer, None)([renderer.prompt(example)])
        return made.row.input_ids[: int(np.flatnonzero(made.row.trained)[0])].tolist()

    def decode(self, token_ids: Sequence[int], special: bool = False) -> str:
        """Returns the text of tokens. special: with the special tokens."""
        return self.tokenizer.decode(
            list(token_ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False
        )


def read_prompts(path: Path, render: PromptRenderer) -> list[Request]:
    """Returns the prompts of a JSONL file; ConfigError with file and line of all malformed lines."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError([f"prompts={path}: {error.strerror}. Try: a JSONL file, or prompts=eval"]) from error
    found: list[Request] = []
    errors: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            found.append(_request(line, where, render))
        except (BadField, TemplateRefused, ValueError) as error:
            errors.append(f"{where}: {error}")
    if errors:
        more = [f"and {len(errors) - SHOWN_ERRORS} more lines"] if len(errors) > SHOWN_ERRORS else []
        raise ConfigError([*errors[:SHOWN_ERRORS], *more])
    if not found:
        raise ConfigError([f'prompts={path}: holds no prompts. Try: lines such as {{"prompt": "Hello"}}'])
    return found


def _request(line: bytes, where: str, render: PromptRenderer) -> Request:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'is not JSON: {error}. Try: one object a line, such as {{"prompt": "Hello"}}') from None
    if not isinstance(row, dict):
        raise ValueError(f'is {type(row).__name__}, expected an object such as {{"prompt": "Hello"}}')
    for name in row:
        if name not in FIELDS:
            raise BadField(name, f"is not read.{did_you_mean(nearest(name, FIELDS))} Allowed: {', '.join(FIELDS)}")
    if ("prompt" in row) == ("messages" in row):
        raise ValueError("expected one of prompt and messages" + (", got both" if "prompt" in row else ""))
    example = chat(row["messages"]) if "messages" in row else text_prompt(row["prompt"])
    return Request(row, render(example), where)


def text_prompt(text: Any) -> Example:
    """Returns the example of a prompt; BadField unless it is text."""
    return Example((Segment("prompt", _text(text, "prompt"), False),))


def chat(messages: Any) -> Example:
    """Returns the example of messages to be answered; BadField for malformed ones, or when no user speaks last."""
    if not isinstance(messages, list) or not messages:
        raise BadField("messages", "expected a list of objects with role and content")
    segments: list[Segment] = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            raise BadField(where, "expected an object with role and content")
        role = message["role"]
        if not isinstance(role, str) or role not in ROLES:
            raise BadField(f"{where}.role", f"is {role!r}. Allowed: {', '.join(ROLES)}")
        segments.append(Segment(ROLES[role], _text(message["content"], f"{where}.content"), False))
    if segments[-1].role != "user":
        raise BadField(
            f"messages[{len(messages) - 1}].role", f"is {messages[-1]['role']!r}, expected 'user' at the end"
        )
    return Example(tuple(segments))


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadField(name, f"is {type(value).__name__}, expected text")
    if not value.strip():
        raise BadField(name, "is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadField(name, f"is half of a surrogate pair at position {error.start}") from None
    return value


def held_out_prompts(rows: Rows, render: PromptRenderer, count: int | None = None) -> Iterator[Request]:
    """Yields the prompts of held-out rows, with the expected answers: the last trained part of each row.

    count: of the first rows; None: all.
    """
    for number in range(len(rows) if count is None else min(count, len(rows))):
        ids, begins = cut(rows[number])
        prompt = render.decode(ids[:begins], special=True)
        expected = render.decode(ids[begins:])
        yield Request({"prompt": prompt, "id": number}, ids[:begins], f"held-out row {number}", expected)


def cut(row: Row) -> tuple[list[int], int]:
    """Returns the tokens of a row up to the end of its last trained part, and where that part begins.

    In a row that is trained from its first token, such as plain text, it begins in the middle. Of a pair it is the
    chosen answer.
    """
    row = row if row.borders is None else row.documents()[0]
    trained = np.flatnonzero(row.trained)
    end = int(trained[-1]) + 1
    untrained = np.flatnonzero(~row.trained[:end])
    begins = int(untrained[-1]) + 1 if len(untrained) else 0
    return row.input_ids[:end].tolist(), begins if begins > 1 else max(1, end // 2)


def last_turn(renderer: Renderer, text: str) -> str:
    """Returns the user's last turn of a rendered prompt, for a reader; all of it where the template hides the turn.

    text: with special tokens. What opens a turn is common to the first and to a later one of a conversation.
    """
    if not isinstance(renderer, ChatRenderer):
        return text
    first, answer, second = "\ue000", "\ue001", "\ue002"
    user, assistant = Segment("user", first, False), Segment("assistant", answer, False)
    try:
        once = renderer.prompt(Example((user,))).text
        twice = renderer.prompt(Example((user, assistant, Segment("user", second, False)))).text
    except (BadField, TemplateRefused):
        return text
    before, _, after = once[: -len(LETTER)].partition(first)
    between = twice.partition(answer)[2].partition(second)[0]
    common = takewhile(lambda pair: pair[0] == pair[1], zip(reversed(before), reversed(between), strict=False))
    opening = "".join(letter for letter, _ in common)[::-1]
    begins = text.rfind(opening) + len(opening)
    if not opening or begins < len(opening) or not text.endswith(after):
        return text
    return text[begins : len(text) - len(after)].strip() or text


def too_long(requests: Sequence[Request], positions: int | None) -> list[str]:
    """Returns a message for each prompt without room for an answer. positions: of the model; None: unlimited."""
    if positions is None:
        return []
    long = [request for request in requests if len(request.token_ids) >= positions]
    messages = [
        f"{request.where}: the prompt has {len(request.token_ids):,} tokens, and the model {positions:,} positions "
        f"for prompt and answer. Try: a shorter prompt"
        for request in long
    ]
    more = [f"and {len(long) - SHOWN_ERRORS} more prompts"] if len(long) > SHOWN_ERRORS else []
    return [*messages[:SHOWN_ERRORS], *more]
