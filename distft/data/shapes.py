"""Conversations of one shape: the same roles and keys in the same order, with other texts.

What the chat template writes around the texts is found once per shape, from two conversations of probes rendered turn
by turn. A later conversation of that shape is rendered once, and what is generated in it follows by construction; the
renderer holds both against each other. This is done only for a template of which is known what it reads of the texts
(distft.data.template_reads), and for texts that hold none of those words and have no spaces at their ends.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from distft.data.example import BadField, RawJson
from distft.data.template import REASONING, TemplateRefused

MAX_SHAPES = 1000  # remembered
PROBES = ("kq7p{}e", "Kq9é, ({}) b?")
Key = tuple[int, str]  # number of a message, and the key of one of its texts
Shape = tuple[tuple[str, ...], ...]  # of each message: its role and its other keys


@dataclass(frozen=True)
class Answer:
    """A trained turn: the prompts after which it is generated, what is generated, and the text that ends with it."""

    prompts: tuple[str, ...]
    text: str  # with the token that ends generation
    alone: str  # the conversation up to here
    parts: tuple[tuple[int, int], ...]  # trained parts of `text`

    def spans(self, whole: str) -> list[tuple[int, int]] | None:
        """Returns the turn's spans in the text of a conversation; None where that does not hold it as generated."""
        for prompt in self.prompts:
            if whole.startswith(self.text, len(prompt)) and whole.startswith(prompt):
                return [(len(prompt) + start, len(prompt) + end) for start, end in self.parts]
        return None


@dataclass(frozen=True)
class Pieces:
    """A rendering as what the template writes, with the texts of the conversation left out."""

    pattern: str  # with %s for each text
    numbers: tuple[int, ...]  # of the texts, in the order of the pattern

    def __call__(self, texts: Sequence[str]) -> str:
        return self.pattern % tuple([texts[number] for number in self.numbers])

    def __add__(self, other: "Pieces") -> "Pieces":
        return Pieces(self.pattern + other.pattern, self.numbers + other.numbers)

    def begins_with(self, other: "Pieces") -> bool:
        """Returns whether it begins with the other one, whatever the texts are."""
        has_texts = self.numbers[: len(other.numbers)] == other.numbers
        return has_texts and self.pattern.startswith(other.pattern)

    @property
    def written(self) -> int:
        """The characters that the template writes."""
        return len(self.pattern % (("",) * len(self.numbers)))


@dataclass(frozen=True)
class TurnPlan:
    """A trained turn of a shape."""

    prompts: tuple[Pieces, ...]
    text: Pieces
    alone: Pieces
    begun: int  # number of the prompt that `alone` begins with
    stop: str  # the next role's marker, which `alone` has after its rendering

    def answer(self, texts: Sequence[str]) -> Answer | None:
        """Returns the turn with other texts, all of it trained; None where these make a longer prompt possible."""
        prompts = tuple([prompt(texts) for prompt in self.prompts])
        text, alone = self.text(texts), self.alone(texts)
        for longer in prompts[: self.begun]:
            if alone.startswith(longer):
                return None
        begun = prompts[self.begun]
        if not alone.startswith(begun) or not alone.startswith(text, len(begun)):
            return None
        return Answer(prompts, text, alone, ((0, len(text)),))


Edge = tuple[int, int]  # characters that the template writes before it, and how many texts are before it
Place = tuple[Edge, Edge]


@dataclass(frozen=True)
class Plan:
    """A shape: its whole rendering, and its trained turns by the number of their message."""

    whole: Pieces
    turns: dict[int, TurnPlan]
    places: tuple[Place, ...] | None  # of the turns in `whole`; None where they depend on the texts

    def spans(self, texts: Sequence[str]) -> tuple[tuple[int, int], ...]:
        """Returns the spans of the turns in the whole rendering, from their places."""
        assert self.places is not None
        before = list(accumulate([len(texts[number]) for number in self.whole.numbers], initial=0))
        return tuple([(start + before[first], end + before[last]) for (start, first), (end, last) in self.places])


Look = Callable[[list[RawJson]], tuple[str, dict[int, tuple[Answer, str]]]]  # whole, and answers with their rendering


@dataclass
class Shapes:
    """The plans of the shapes seen so far. words: that the template reads; None: not known."""

    words: frozenset[str] | None
    plans: dict[tuple[Shape, tuple[int, ...]], Plan | None] = field(default_factory=dict)

    def plan(self, messages: list[RawJson], trained: Sequence[int], look: Look) -> tuple[Plan, list[str]] | None:
        """Returns the plan of a conversation and its texts; None where each turn has to be rendered.

        look: renders a conversation turn by turn.
        """
        if self.words is None:
            return None
        texts: list[str] = []
        for message in messages:
            for key, value in message.items():
                if key != "role":
                    if key != "content" and key not in REASONING:
                        return None
                    texts.append(value)
        for text in texts:
            if not self._is_like_others(text):
                return None
        key = (tuple([(message["role"], *message) for message in messages]), tuple(trained))
        if key not in self.plans:
            if len(self.plans) >= MAX_SHAPES:
                return None
            is_known = all(self._is_like_others(probe) for probe in PROBES)
            self.plans[key] = _planned(messages, look) if is_known else None
        found = self.plans[key]
        return (found, texts) if found else None

    def _is_like_others(self, text: str | None) -> bool:
        if not text or text[0].isspace() or text[-1].isspace():
            return False
        if not self.words:
            return True
        lower = text.lower()
        return not any(word in lower for word in self.words)


def _planned(messages: list[RawJson], look: Look) -> Plan | None:
    """Returns the plan of a shape, if probes of two kinds give the same one."""
    found = []
    keys = [(number, key) for number, message in enumerate(messages) for key in message if key != "role"]
    for probe in PROBES:
        markers = [probe.format(number) for number in range(1000, 1000 + len(keys))]
        asked: list[RawJson] = [{"role": message["role"]} for message in messages]
        for (number, key), marker in zip(keys, markers, strict=True):
            asked[number][key] = marker
        try:
            found.append(_plan_of(keys, markers, *look(asked)))
        except (BadField, TemplateRefused):  # reported for the row itself
            return None
    return found[0] if found[0] == found[1] else None


def _plan_of(keys: list[Key], markers: list[str], whole: str, answers: dict[int, tuple[Answer, str]]) -> Plan:
    turns = {}
    for i, (answer, alone) in answers.items():
        begun = next(number for number, prompt in enumerate(answer.prompts) if answer.alone.startswith(prompt))
        prompts = tuple(_pieces(prompt, markers) for prompt in answer.prompts)
        text, ended = _pieces(answer.text, markers), _pieces(answer.alone, markers)
        turns[i] = TurnPlan(prompts, text, ended, begun, answer.alone.removeprefix(alone))
    rendered = _pieces(whole, markers)
    return Plan(rendered, turns, _places(keys, rendered, turns))


def _places(keys: list[Key], whole: Pieces, turns: Mapping[int, TurnPlan]) -> tuple[Place, ...] | None:
    """Returns the places of the turns in `whole`; None unless it holds them, and every content, whatever the texts are.

    A turn must have one prompt and hold all texts of its message.
    """
    contents = {number for number, (_, key) in enumerate(keys) if key == "content"}
    if not contents <= set(whole.numbers):
        return None
    found = []
    for i, turn in turns.items():
        own = {number for number, (message, _) in enumerate(keys) if message == i}
        if len(turn.prompts) != 1 or not own <= set(turn.text.numbers):
            return None
        until = turn.prompts[0] + turn.text
        if not whole.begins_with(until) or not turn.alone.begins_with(until):
            return None
        begun = (turn.prompts[0].written, len(turn.prompts[0].numbers))
        found.append((begun, (until.written, len(until.numbers))))
    return tuple(found)


def _pieces(text: str, markers: list[str]) -> Pieces:
    parts = re.split("(" + "|".join(map(re.escape, markers)) + ")", text)
    written, found = parts[::2], parts[1::2]
    numbers = {marker: number for number, marker in enumerate(markers)}
    return Pieces("%s".join(part.replace("%", "%%") for part in written), tuple(numbers[each] for each in found))
