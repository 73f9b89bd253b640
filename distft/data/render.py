"""Rendering: an Example as the texts that the model reads, with the character spans that are trained.

A trained turn begins where generation begins: after a text that the template gives for add_generation_prompt. It ends
with the token that ends generation, and what it holds is what the template renders of the turn as the last one of a
conversation. Where the template writes a turn otherwise once another follows (it drops the reasoning, or ends it with
another token), the turn is trained in a text of its own.
Trap: spans found by token ids or by `{% generation %}` tags, which most stock templates lack, train on nothing or on
the user's text.
A template that prints the current date gets a fixed one, else tokens would depend on the day of the preparation.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, Literal

from distft.data.example import BadField, Example, RawJson, Segment, role_of
from distft.data.shapes import Answer, Plan, Shapes
from distft.data.template import ENDS_REASONING, REASONING, SEED_DATE, ChatTemplate, TemplateRefused, reasoning_of

CHAT_ROLES = ("system", "developer", "user", "assistant", "tool")
MARKER = "Kq7marker"
TrainOn = Literal["all", "last", "assistant"]
LETTER = "A"  # begins an answer; a token may join it with the space before it, which then is not the prompt's


@dataclass(frozen=True)
class Training:
    """What is trained of a conversation: data.train_on and data.train_reasoning."""

    on: TrainOn = "assistant"
    reasoning: bool = True


@dataclass(frozen=True)
class Rendered:
    """The text of one document, and its trained spans as (start, end) character positions."""

    text: str
    spans: tuple[tuple[int, int], ...]
    weights: tuple[float, ...] = ()  # of the spans; empty: all 1
    add_bos: bool = False  # plain text: add the tokenizer's bos and eos tokens
    add_eos: bool = False


class PlainRenderer:
    """Concatenates the segments unchanged; for tokenizers without a template, and for plain text.

    `chat_template` is the text of the template in use; `ends` collects the special tokens that end trained text.
    """

    def __init__(self, end: str | None = None, training: Training = Training()) -> None:
        """end: the tokenizer's end-of-text token, which is trained."""
        self.chat_template: str | None = None
        self.end, self.ends, self.training = end, set[str](), training

    date = None
    keys: tuple[str, ...] = ()  # that a chat template may read
    read: frozenset[tuple[str, str]] = frozenset()

    def __call__(self, example: Example) -> Rendered:
        if any(segment.role in CHAT_ROLES[2:] for segment in example.segments):
            raise TemplateRefused(
                "messages need a chat template, and the tokenizer has none. Try: model.tokenizer=FOLDER of one with a "
                "template, or data.chat_template=FILE.jinja"
            )
        text, spans, weights = "", [], []
        for segment in example.segments:
            if (segment.train or self.training.on == "all") and segment.weight * example.weight > 0:
                spans.append((len(text), len(text) + len(segment.text)))
                weights.append(segment.weight * example.weight)
            text += segment.text
        is_trained = bool(spans) and spans[-1][1] == len(text)
        if is_trained and self.end:
            self.ends.add(self.end)
        return Rendered(text, tuple(spans), _weights(weights), add_bos=True, add_eos=example.segments[-1].train)

    def rows(self, example: Example) -> list[Rendered]:
        return [self(example)]

    def unread(self, example: Example) -> list[tuple[str, str]]:
        return []

    def prompt(self, example: Example) -> Rendered:
        """Returns the row of a prompt, with LETTER as its trained answer."""
        text = self(example).text
        return Rendered(text + LETTER, ((len(text), len(text) + 1),), add_bos=True)


class ChatRenderer:
    """Renders the segments with the tokenizer's chat template; raises TemplateRefused where it hides the spans."""

    def __init__(
        self, tokenizer: Any, template: str | None = None, date: str = SEED_DATE, training: Training = Training()
    ) -> None:
        self.tokenizer, self.training = tokenizer, training
        self.template = ChatTemplate(tokenizer, template, date)
        self.chat_template: str | None = self.template.text
        self.date, self.keys, self.read = self.template.date, self.template.keys(), self.template.read
        added = sorted((str(token) for token in tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
        self.special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        self.any_token = "(?:" + "|".join(map(re.escape, added)) + ")"
        self.plain = PlainRenderer(tokenizer.eos_token, training)
        self.ends = self.plain.ends  # the special tokens that end trained turns
        self.shapes = Shapes(self.template.words_read)
        self._check()
        self.ends.clear()  # without those of the check

    def __call__(self, example: Example) -> Rendered:
        """Returns the rendering of the whole conversation."""
        return self.rows(example)[-1]

    def rows(self, example: Example) -> list[Rendered]:
        """Returns the texts of a conversation, each trained turn in one of them, the whole conversation last.

        Raises BadField where the template rejects the row, drops a message, or would not generate a trained turn.
        """
        if example.segments[0].role == "text":
            return [self.plain(example)]
        segments = example.segments
        messages, tools = self.messages(example)
        whole = self.template.render(messages, tools)
        trained = self._trained(example)
        found = None if example.tools or self.training.on == "all" else self._plan(messages, trained, whole)
        if found and found[0].places is not None and self.training.reasoning:
            weights = [segments[i].weight * example.weight for i in trained]
            return [Rendered(whole, found[0].spans(found[1]), _weights(weights))]
        answers = self._by_shape(messages, whole, *found) if found else None
        if answers is None:
            self._check_shown(messages, tools, whole)
            if self.training.on == "all":
                return [self._all(example, messages, tools, whole)]
            answers = {i: self._answer(messages, tools, i, whole) for i in trained}
            if _is_described(example):
                self._check_described(messages, answers)
        rows: list[Rendered] = []
        left = list(trained)
        text = whole if not left or answers[left[-1]].spans(whole) else answers[left[-1]].alone
        while left or not rows:
            spans, weights, later = [], [], []
            for i in left:
                if (found := answers[i].spans(text)) is None:
                    later.append(i)
                    continue
                spans += found
                weights += [segments[i].weight * example.weight] * len(found)
            rows.append(Rendered(text, tuple(spans), _weights(weights)))
            left = later
            text = answers[left[-1]].alone if left else text
        return rows[::-1]

    def prompt(self, example: Example) -> Rendered:
        """Returns the row of a prompt: the text before generation, with LETTER as its trained answer."""
        if example.segments[0].role == "text":
            return self.plain.prompt(example)
        messages, tools = self.messages(example)
        answered = self.template.render([*messages, {"role": "assistant", "content": LETTER}], tools)
        prompts = self._prompts(messages, tools, answered)
        text = next((prompt for prompt in prompts if answered.startswith(prompt)), prompts[0])
        return Rendered(text + LETTER, ((len(text), len(text) + 1),))

    def messages(self, example: Example) -> tuple[list[RawJson], Sequence[RawJson]]:
        """Returns the messages and the tools in the form that the chat template takes."""
        tools = () if _is_described(example) else example.tools  # Hermes: the system text has the schemas
        return self.template.with_accepted_ids(self.template.messages(example), tools), tools

    def unread(self, example: Example) -> list[tuple[str, str]]:
        """Returns (role, key) of the keys of an example that the chat template does not read."""
        if example.segments[0].role == "text" or not (example.tools or any(part.fields for part in example.segments)):
            return []
        if _is_described(example):
            example = replace(example, tools=())
        try:
            return self.template.unread(example)
        except BadField:
            return []  # reported by `rows`

    def _trained(self, example: Example) -> list[int]:
        """Returns the indices of the trained turns."""
        turns = [i for i, part in enumerate(example.segments) if role_of(part) == "assistant"]
        if self.training.on == "last":
            turns = turns[-1:]
        return [i for i in turns if example.segments[i].train and example.segments[i].weight * example.weight > 0]

    def _plan(self, messages: list[RawJson], trained: list[int], whole: str) -> tuple[Plan, list[str]] | None:
        """Returns the plan of a conversation's shape and its texts, if that predicts its rendering; else None."""
        found = self.shapes.plan(messages, trained, lambda asked: self._turn_by_turn(asked, trained))
        return found if found and found[0].whole(found[1]) == whole else None

    def _by_shape(self, messages: list[RawJson], whole: str, plan: Plan, texts: list[str]) -> dict[int, Answer] | None:
        """Returns the trained turns of a conversation without rendering each of them; None where that is not sure.

        Every text that is trained is rendered, and holds what its shape predicts. The prompts follow from the shape.
        """
        if not all(message["content"] in whole for message in messages):
            return None
        answers = {}
        for i, turn in plan.turns.items():
            message = messages[i]
            answer = turn.answer(texts)
            if answer is None or message["content"] not in answer.text or reasoning_of(message) not in answer.text:
                return None
            if not self.training.reasoning:
                answer = replace(answer, parts=self._parts(message, answer.text))
            if answer.spans(whole) is None:  # it is trained in a text of its own
                alone = whole if i == len(messages) - 1 else self.template.render(messages[: i + 1])
                if answer.alone != alone + turn.stop:
                    return None
            answers[i] = answer
        return answers

    def _turn_by_turn(self, messages: list[RawJson], trained: list[int]) -> tuple[str, dict[int, tuple[Answer, str]]]:
        """Returns the text of a conversation, and each trained turn with the text of the conversation up to it."""
        whole = self.template.render(messages)
        self._check_shown(messages, (), whole)
        alone = {i: self.template.render(messages[: i + 1]) for i in trained}
        return whole, {i: (self._answer(messages, (), i, whole), alone[i]) for i in trained}

    def _answer(self, messages: list[RawJson], tools: Sequence[RawJson], i: int, whole: str) -> Answer:
        """Returns a trained turn, from the rendering of the conversation that ends with it."""
        alone = whole if i == len(messages) - 1 else self.template.render(messages[: i + 1], tools)
        prompts = self._prompts(messages[:i], tools, alone)
        begun = next((prompt for prompt in prompts if alone.startswith(prompt)), None)
        if begun is None:
            raise BadField(
                f"messages[{i}]",
                "the chat template writes this turn after another text than the one it gives for generation, so the "
                "model would learn a turn that it never generates. Try: train: false on the message, or "
                "data.chat_template=FILE.jinja",
            )
        rest = alone[len(begun) :]
        end = self._end_of_turn(rest)
        if end is None:
            stop = self._next_marker(messages, tools, i, alone)
            alone, rest, end = alone + stop, rest + stop, len(rest + stop)
        text = rest[:end]
        self._check_answer(messages[i], text, i)
        return Answer(tuple(prompts), text, alone, self._parts(messages[i], text))

    def _prompts(self, before: list[RawJson], tools: Sequence[RawJson], alone: str) -> list[str]:
        if before:
            return self.template.prompts(before, tools)
        opening = self.template.opening  # no library renders an empty conversation
        at = alone.find(opening) if opening else -1
        return [alone[: at + len(opening)]] if at >= 0 else []

    def _end_of_turn(self, rest: str) -> int | None:
        """Returns the position after the token that ends generation; None where the next role's marker is that token.

        rest: a turn from where generation begins to the end of its rendering.
        """
        if self.stop is None:
            return None
        run = re.search(rf"(?:\s*{self.any_token})*\s*\Z", rest)
        assert run is not None
        tokens = list(re.finditer(self.any_token, rest[run.start() :]))
        ending = [token for token in tokens if token[0] == self.stop] or [t for t in tokens if t[0] in self.special]
        if not ending:
            raise TemplateRefused(
                f"the chat template ends an assistant's turn with {rest[-20:]!r}, which is not a special token of the "
                "tokenizer, so the model would not learn to stop"
            )
        self.ends.add(ending[-1][0])
        return run.start() + ending[-1].end()

    def _next_marker(self, messages: list[RawJson], tools: Sequence[RawJson], i: int, alone: str) -> str:
        """Returns the marker of the next role, which ends generation in families without an end-of-turn token."""
        following: RawJson = {"role": "user", "content": "a"}
        if calls := messages[i].get("tool_calls"):
            following = {"role": "tool", "content": "a", "name": calls[-1]["function"]["name"]}
            following |= {"tool_call_id": calls[-1]["id"]} if "id" in calls[-1] else {}
        marker = re.compile(rf"\s*{self.any_token}")
        history = {key: value for key, value in messages[i].items() if key not in REASONING}
        for turn, later in product((messages[i], history), ([following], messages[i + 1 : i + 2])):
            before = alone if turn is messages[i] else self.template.render([*messages[:i], turn], tools)
            text = self.template.render([*messages[:i], turn, *later], tools) if later else ""
            found = marker.match(text, len(before)) if text.startswith(before) else None
            if found:
                self.ends.add(found[0].strip())
                return found[0]
        raise TemplateRefused(
            f"the chat template ends an assistant's turn with {alone[-20:]!r}, which is not a special token of the "
            "tokenizer, so the model would not learn to stop"
        )

    @cached_property
    def stop(self) -> str | None:
        """The special token directly after an answer; None where the next role's marker ends it."""
        text = self.template.render([{"role": "user", "content": "a"}, {"role": "assistant", "content": MARKER}])
        if text.count(MARKER) != 1:
            raise TemplateRefused("the chat template hides what the assistant says")
        found = re.compile(rf"\s*({self.any_token})").match(text, text.index(MARKER) + len(MARKER))
        return found[1] if found else None

    def _parts(self, message: RawJson, text: str) -> tuple[tuple[int, int], ...]:
        """Returns the trained parts of a turn: all of it, or what follows the reasoning and its closing tag."""
        reasoning = "" if self.training.reasoning else reasoning_of(message)
        if not reasoning:
            return ((0, len(text)),)
        end = text.index(reasoning) + len(reasoning)
        closing = re.compile(rf"\s*(?:{self.any_token}|</\w+>)\s*").match(text, end)
        return ((closing.end() if closing else end, len(text)),)

    def _all(self, example: Example, messages: list[RawJson], tools: Sequence[RawJson], whole: str) -> Rendered:
        """Returns the whole text as trained, except for the assistant's turns that are marked untrained."""
        spans: list[tuple[int, int]] = []
        weights: list[float] = []
        at = 0
        for i, part in enumerate(example.segments):
            if role_of(part) != "assistant" or (part.train and part.weight == 1.0):
                continue
            (start, end), *_ = self._answer(messages, tools, i, whole).spans(whole) or [(-1, -1)]
            if start < 0:
                raise BadField(f"messages[{i}]", "its place in the conversation cannot be determined")
            spans += [(at, start), (start, end)]
            weights += [1.0, part.weight if part.train else 0.0]
            at = end
        spans.append((at, len(whole)))
        weights.append(1.0)
        kept = [
            (span, weight * example.weight)
            for span, weight in zip(spans, weights, strict=True)
            if weight * example.weight and span[0] < span[1]
        ]
        if self.stop:
            self.ends.add(self.stop)
        return Rendered(whole, tuple(span for span, _ in kept), _weights([weight for _, weight in kept]))

    def _check_answer(self, message: RawJson, text: str, i: int) -> None:
        """Raises BadField unless a turn holds the content, the reasoning and the calls of its message."""
        have = _without_spaces(text)
        if _without_spaces(message["content"] or "") not in have:
            raise BadField(f"messages[{i}].content", "the chat template changes it beyond recognition")
        if _without_spaces(reasoning_of(message)) not in have:
            key = next((key for key in REASONING if message.get(key)), "content")
            raise BadField(f"messages[{i}].{key}", "the chat template leaves it out here")
        for call in message.get("tool_calls", ()):
            function = call["function"]
            words = [function["name"], *(function["arguments"] if isinstance(function["arguments"], dict) else ())]
            if missing := next((word for word in words if _without_spaces(word) not in have), None):
                raise BadField(f"messages[{i}].tool_calls", f"the chat template leaves out {missing!r}")

    def _check_shown(self, messages: list[RawJson], tools: Sequence[RawJson], whole: str) -> None:
        """Raises BadField for a message that the template drops."""
        have = _without_spaces(whole)
        for i, message in enumerate(messages):
            content = (message["content"] or "").rpartition(ENDS_REASONING)[2]
            if _without_spaces(content) in have:
                continue
            marked = [*messages[:i], message | {"content": MARKER}, *messages[i + 1 :]]
            if MARKER not in self.template.render(marked, tools) and message["role"] != "assistant":
                raise BadField(f"messages[{i}]", f"the chat template drops this message of role {message['role']!r}")

    def _check_described(self, messages: list[RawJson], answers: dict[int, Answer]) -> None:
        for i, answer in answers.items():
            if messages[i].get("tool_calls") and "<tool_call>" not in answer.text:
                raise BadField(
                    f"messages[{i}]",
                    "the system text asks for calls in <tool_call> tags, and the chat template writes them otherwise. "
                    "Try: the schemas in a field `tools`, and a system text without them",
                )

    def _check(self) -> None:
        """Raises TemplateRefused unless one turn gives its span and at most one bos token; runs before any row."""
        try:
            training, self.training = self.training, Training()
            rendered = self(Example((Segment("user", "Question", False), Segment("assistant", "Answer", True))))
            self.training = training
        except BadField as error:
            raise TemplateRefused(f"the chat template hides what the assistant says ({error})") from None
        bos = self.tokenizer.bos_token
        if bos and rendered.text.startswith(bos * 2):
            raise TemplateRefused(f"the chat template begins with two {bos} tokens")


def make_renderer(
    tokenizer: Any, chat_template: str, date: str = SEED_DATE, training: Training = Training()
) -> "ChatRenderer | PlainRenderer":
    """Returns the renderer for data.chat_template.

    chat_template: `auto`, `none`, or the text of a template. date: YYYY-MM-DD, the current date in the template.
    """
    if chat_template == "none" or (chat_template == "auto" and not tokenizer.chat_template):
        return PlainRenderer(tokenizer.eos_token, training)
    return ChatRenderer(tokenizer, None if chat_template == "auto" else chat_template, date, training)


def _is_described(example: Example) -> bool:
    """Returns whether a system text has the schemas of the tools, as Hermes rows have them."""
    return any(part.role == "system" and "<tools>" in part.text for part in example.segments)


def _weights(weights: Sequence[float]) -> tuple[float, ...]:
    return tuple(weights) if any(weight != 1.0 for weight in weights) else ()


def _without_spaces(text: str) -> str:
    return "".join(text.split())
