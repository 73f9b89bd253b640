"""A tokenizer's chat template: what it renders, what it reads of a message, and how it writes tool calls.

A template is a program whose inputs are not declared, so this module finds out by rendering: with and without a key,
with probes in place of contents.
Trap: a template skips what it does not know (a role, a key, a call with its arguments in another form) and reports
nothing.
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import product
from typing import Any

import jinja2

from distft.compat.chat_template import DirectTemplate, is_unchanged
from distft.data.example import BadField, Example, RawJson, Segment
from distft.data.template_reads import words_read

SEED_DATE = "2024-07-26"  # the default date of Llama 3's template
DATE_FORMS = [f"%{flag}{letter}" for letter in "aAbBcdFHIjmMpSTuUVwWxXyYe" for flag in ("", "-")]
ROLES = {"prompt": "user", "completion": "assistant"}  # of segments that are not of a chat
ENDS_REASONING = "</think>"
REASONING = ("reasoning_content", "reasoning", "thinking")  # one key under three names
MODES = ("enable_thinking", "thinking")  # switches of templates: whether the generation prompt leaves room to reason
FAILURES = (jinja2.TemplateError, TypeError, AttributeError, KeyError, IndexError, ValueError)  # of a template's code
SAID, NAME, KEY, VALUE = "kq7said", "kq7function", "kq7key", "kq7value"  # probes
CALL_ID = "kq7call00"  # nine letters and digits, as Mistral's templates demand
SCHEMA = {"type": "object", "properties": {KEY: {"type": "string", "description": "a"}}, "required": [KEY]}
TOOL: RawJson = {"type": "function", "function": {"name": NAME, "description": "a", "parameters": SCHEMA}}


class TemplateRefused(ValueError):
    """The trained spans of a chat template cannot be determined."""


@dataclass(frozen=True)
class CallForm:
    """How a template wants tool calls: their arguments as JSON text or as an object, next to an empty or no content."""

    arguments_as_text: bool
    empty: str | None


class ChatTemplate:
    """Renders messages; raises BadField where the template rejects them."""

    def __init__(self, tokenizer: Any, template: str | None = None, date: str = SEED_DATE) -> None:
        """template: its text; None: the tokenizer's own. date: YYYY-MM-DD, the current date in the template."""
        self.tokenizer = tokenizer
        self.text: str = tokenizer.get_chat_template(template)
        self.date = date if "strftime_now" in self.text else None  # the date that the template prints
        self.dated = _with_day(self.text, date) if self.date else self.text
        self._direct = DirectTemplate(tokenizer, self.dated) if is_unchanged(tokenizer) else None
        self.words_read = words_read(self._direct.tree()) if self._direct else None
        named = [name for name in MODES if name in self.text]
        modes = [{}, *(dict.fromkeys(named, value) for value in (False, True) if named)]
        self.modes: list[dict[str, bool]] = self._distinct(modes)
        self.read: set[tuple[str, str]] = set()  # (role, key) that the template was seen to read

    def render(
        self, messages: Sequence[RawJson], tools: Sequence[RawJson] = (), prompt: bool = False, **mode: bool
    ) -> str:
        """Returns the text of messages; prompt: with the text after which the model generates."""
        options: dict[str, list[RawJson]] = {"tools": list(tools)} if tools else {}
        try:
            if self._direct and (plain := self._direct.plain(messages)) and self._direct.plain(tools) == [*tools]:
                return self._direct.render(plain, tools, prompt, **mode)
            return self.tokenizer.apply_chat_template(
                list(messages),
                chat_template=self.dated,
                tokenize=False,
                add_generation_prompt=prompt,
                **options,
                **mode,
            )
        except FAILURES as error:
            raise BadField("messages", f"the chat template refuses them: {error}") from None

    def prompts(self, messages: Sequence[RawJson], tools: Sequence[RawJson] = ()) -> list[str]:
        """Returns the texts after which the model may generate its answer, one per mode, the longest first."""
        found = {self.render(messages, tools, True, **mode) for mode in self.modes}
        return sorted(found, key=len, reverse=True)

    def _distinct(self, modes: list[dict[str, bool]]) -> list[dict[str, bool]]:
        """Returns the modes in which the generation prompts differ, the first of equal ones."""
        asked = [{"role": "user", "content": SAID}]
        found: dict[str, dict[str, bool]] = {}
        for mode in modes if len(modes) > 1 else []:
            with suppress(BadField):  # reported when the template is checked
                found.setdefault(self.render(asked, (), True, **mode), mode)
        return list(found.values()) or modes[:1]

    def messages(self, example: Example) -> list[RawJson]:
        """Returns the messages of an example in the form that the template reads."""
        return [self._message(segment, i) for i, segment in enumerate(example.segments)]

    def with_accepted_ids(self, messages: list[RawJson], tools: Sequence[RawJson]) -> list[RawJson]:
        """Returns the messages with ids of tool calls that the template takes: as they are, or of nine letters."""
        ids = [call["id"] for message in messages for call in message.get("tool_calls", ()) if "id" in call]
        if not ids:
            return messages
        try:
            self.render(messages, tools)
        except BadField as error:
            if "id" not in error.reason.casefold():
                return messages
            short = {name: f"{CALL_ID[:-2]}{number:02d}" for number, name in enumerate(dict.fromkeys(ids))}
            return [_with_ids(message, short) for message in messages]
        return messages

    def unread(self, example: Example) -> list[tuple[str, str]]:
        """Returns (role, key) of what changes nothing in the rendering: ("", "tools"), or keys of messages.

        Not among them: ids of tool calls, and a tool's name where the call gives it, since the order says the same.
        """
        found = []
        messages = None
        if example.tools and ("", "tools") not in self.read:
            messages = self.messages(example)
            self._notice("", "tools", self.render(messages, example.tools) != self.render(messages), found)
        for i, segment in enumerate(example.segments):
            for key in segment.fields:
                if key in ("tool_calls", "tool_call_id") or (segment.role == "tool" and key == "name"):
                    continue
                if (segment.role, key) in self.read:
                    continue
                name = self.reasoning_key if key in REASONING and self.reasoning_key else key
                messages = messages or self.messages(example)
                before, message = messages[:i], messages[i]
                less = {other: value for other, value in message.items() if other != name}
                texts = [self.render([*before, form], example.tools) for form in (message, less)]
                self._notice(segment.role, key, texts[0] != texts[1], found)
        return list(dict.fromkeys(found))

    def keys(self) -> list[str]:
        """Returns the words that the template may read as keys of a message."""
        found = re.findall(r"\.(\w+)|\[['\"](\w+)['\"]\]", self.text)
        return sorted({one or other for one, other in found})

    @cached_property
    def call_form(self) -> CallForm | None:
        """How the template wants tool calls; None if it renders none."""
        asked = {"role": "user", "content": "a"}
        for as_text, empty, identity in product((False, True), ("", None), (CALL_ID, f"functions.{NAME}:0")):
            arguments = json.dumps({KEY: VALUE}) if as_text else {KEY: VALUE}
            call = {"id": identity, "type": "function", "function": {"name": NAME, "arguments": arguments}}
            try:
                text = self.render([asked, {"role": "assistant", "content": empty, "tool_calls": [call]}])
            except BadField:
                continue
            if NAME in text and VALUE in text and f"'{KEY}'" not in text and f'\\"{KEY}' not in text:
                return CallForm(as_text, empty)
        return None

    @cached_property
    def reasoning_key(self) -> str | None:
        """The key under which the template reads reasoning; None if under none."""
        asked = {"role": "user", "content": "a"}
        for key in REASONING:
            try:
                if SAID in self.render([asked, {"role": "assistant", "content": "a", key: SAID}]):
                    return key
            except BadField:
                continue
        return None

    @cached_property
    def opening(self) -> str:
        """The text that add_generation_prompt appends, as in `<|im_start|>assistant\\n`; empty: none."""
        asked = [{"role": "user", "content": SAID}]
        plain, prompt = self.render(asked), self.render(asked, prompt=True)
        return prompt.removeprefix(plain) if prompt.startswith(plain) else ""

    @cached_property
    def _developer(self) -> str:
        """The role under which the template renders a developer's message: system where it skips `developer`."""
        asked = [{"role": "developer", "content": SAID}, {"role": "user", "content": "a"}]
        try:
            return "developer" if SAID in self.render(asked) else "system"
        except BadField:
            return "system"

    def _message(self, segment: Segment, index: int) -> RawJson:
        role = ROLES.get(segment.role, segment.role)
        message: RawJson = {"role": self._developer if role == "developer" else role, "content": segment.text}
        for key, value in segment.fields.items():
            if key == "tool_calls":
                if self.call_form is None and segment.written is not None:
                    message["content"] = segment.written
                    continue
                if self.call_form is None:
                    why = "the chat template renders no tool calls. Try: data.chat_template=FILE.jinja"
                    raise BadField(f"messages[{index}].tool_calls", why)
                value = [_call(call, self.call_form) for call in value]
                message["content"] = segment.text or self.call_form.empty
            message[self.reasoning_key or key if key in REASONING else key] = value
        return message

    def _notice(self, role: str, key: str, is_read: bool, unread: list[tuple[str, str]]) -> None:
        if is_read:
            self.read.add((role, key))
        else:
            unread.append((role, key))


def reasoning_of(message: RawJson) -> str:
    """Returns the reasoning of a message, from its own key or from the <think> tags of its content."""
    own = next((message[key] for key in REASONING if message.get(key)), None)
    if own is not None:
        return own.strip()
    before, found, _ = (message["content"] or "").rpartition(ENDS_REASONING)
    return before.rpartition("<think>")[2].strip() if found else ""


def _call(call: RawJson, form: CallForm) -> RawJson:
    function = call["function"]
    if not form.arguments_as_text:
        return call
    return call | {"function": function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}}


def _with_day(template: str, date: str) -> str:
    """Returns the template with a `strftime_now` that prints midnight of that date instead of the current time.

    It is a macro inside the template, because transformers passes no functions to a template.
    """
    day = datetime.strptime(date, "%Y-%m-%d")
    printed = "".join(f" | replace({form!r}, {day.strftime(form)!r})" for form in DATE_FORMS)
    return f"{{% macro strftime_now(format) %}}{{{{ format{printed} }}}}{{% endmacro %}}\n{template}"


def _with_ids(message: RawJson, names: dict[str, str]) -> RawJson:
    if message.get("tool_call_id") in names:
        message = message | {"tool_call_id": names[message["tool_call_id"]]}
    if calls := message.get("tool_calls"):
        calls = [call | ({"id": names[call["id"]]} if "id" in call else {}) for call in calls]
        message = message | {"tool_calls": calls}
    return message
