"""transformers: a chat template rendered without the library's conversion of every message in every call.

`apply_chat_template` copies all messages each time, looks the template up and collects the special tokens; on short
conversations that is half of its time, and the data stage renders a conversation several times. Messages of plain JSON
need none of it, apart from the names under which the library repeats reasoning, which differ between its versions.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from jinja2 import nodes

from distft.compat.reach import Reach

_SEEN = "transformers 5.17 to 5.23"
REACHES = (
    Reach(
        "transformers.utils.chat_template_utils._compile_jinja_template",
        _SEEN,
        "the sandboxed jinja2.Template that apply_chat_template renders",
    ),
)
REASONING = ("reasoning_content", "reasoning", "thinking")
SHOW = "{{ messages | tojson }}"  # a template that shows what the library hands to a template
SCALARS = (str, int, float, bool)
Message = dict[str, Any]  # of a chat: a JSON object with the keys that a template reads


class DirectTemplate:
    """One template of one tokenizer; `render` gives what apply_chat_template gives for messages that `plain` takes."""

    def __init__(self, tokenizer: Any, template: str) -> None:
        self.text = template
        self._tokens = dict(tokenizer.special_tokens_map)
        self._copies = {name: _copies(tokenizer, name) for name in REASONING}

    @cached_property
    def _compiled(self) -> Any:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        template = _compile_jinja_template(self.text).environment.from_string(self.text)  # in its sandbox
        template.globals = dict(template.globals)  # of a ChainMap, which every rendering copies in Python
        return template

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_compiled"}  # which is not picklable

    def tree(self) -> nodes.Template:
        """Returns the syntax tree of the template."""
        return self._compiled.environment.parse(self.text)

    def render(self, messages: Sequence[Message], tools: Sequence[Message], prompt: bool, **options: bool) -> str:
        """Returns the text of plain messages. prompt: with the text after which the model generates."""
        return self._compiled.render(
            self._tokens | options,
            messages=messages,
            tools=tools or None,
            documents=None,
            add_generation_prompt=prompt,
        )

    def plain(self, messages: Sequence[Message]) -> list[Message] | None:
        """Returns messages as the library hands them to a template; None where only the library knows how."""
        found = []
        for message in messages:
            for key, value in message.items():
                if type(value) is not str and not _is_json(value):
                    return None
                if key in self._copies or value is None:
                    message = self._repeated(message)
                    break
            if message is None:
                return None
            found.append(message)
        return found

    def _repeated(self, message: Message) -> Message | None:
        """Returns a message without its null keys, and with its reasoning under all names; None: of two reasonings."""
        kept = {key: value for key, value in message.items() if value is not None}
        names = [name for name in kept if name in self._copies]
        if len(names) > 1 or not all(map(_is_json, kept.values())):
            return None
        for name in names:
            before, after = self._copies[name]
            kept = dict.fromkeys(before, kept[name]) | kept | dict.fromkeys(after, kept[name])
        return kept


def is_unchanged(tokenizer: Any) -> bool:
    """Returns whether a tokenizer's apply_chat_template is the library's own."""
    from transformers import PreTrainedTokenizerBase

    return type(tokenizer).apply_chat_template is PreTrainedTokenizerBase.apply_chat_template


def _copies(tokenizer: Any, name: str) -> tuple[list[str], list[str]]:
    """Returns the keys that the library adds before and after those of a message with reasoning under `name`."""
    asked = {"role": "assistant", "content": "a", name: "b"}
    seen = json.loads(tokenizer.apply_chat_template([asked], chat_template=SHOW, tokenize=False))[0]
    keys = list(seen)
    return keys[: keys.index("role")], [key for key in keys[keys.index("content") :] if key not in asked]


def _is_json(value: object) -> bool:
    if value is None or type(value) in SCALARS:
        return True
    if type(value) is dict:
        return all(type(key) is str and _is_json(inner) for key, inner in value.items())
    return type(value) is list and all(map(_is_json, value))
