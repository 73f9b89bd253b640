"""Tokenizers, and rows to token ids in parallel.

Trap: a class that tokenizer_config.json names builds its own pipeline around the vocabulary, and where that is not
the one of tokenizer.json its ids differ from those the model was trained on, without a word. So the file decides.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from distft.data.render import Rendered
from distft.data.shards import Row

START, END = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def load_tokenizer(folder: Path | str | None, trust_remote_code: bool = False) -> Any:
    """Returns the tokenizer of a local folder, or the byte tokenizer for None; ValueError where it is no fast one."""
    if folder is None:
        return byte_tokenizer()
    options = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        tokenizer = _class_for(Path(folder)).from_pretrained(str(folder), **options)
    except Exception as error:  # the library raises whatever its many loaders raise
        reason = str(error).strip().splitlines()[0]
        way_out = "Try: model.tokenizer=FOLDER, of a tokenizer that belongs to the model"
        raise ValueError(f"{folder} has no tokenizer that can be loaded: {reason} {way_out}") from error
    if not tokenizer.is_fast:
        raise ValueError(f"{folder} has a slow tokenizer only; convert it to tokenizer.json once")
    return _of_file(Path(folder), tokenizer, options)


def _of_file(folder: Path, tokenizer: Any, options: dict[str, Any]) -> Any:
    """Returns the tokenizer where it cuts text as its folder's tokenizer.json does, else that file's own."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    file = folder / "tokenizer.json"
    if type(tokenizer) is PreTrainedTokenizerFast or not file.is_file():  # which is that file
        return tokenizer
    wanted = Tokenizer.from_file(str(file))
    special = f"a{tokenizer.eos_token or ''}b"  # some put a space behind a special token
    if _parts(tokenizer.backend_tokenizer) == _parts(wanted) and _ids(tokenizer.backend_tokenizer, special) == _ids(
        wanted, special
    ):
        return tokenizer
    named = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    known = {name: token for name, token in named.items() if token and wanted.token_to_id(token) is not None}
    return PreTrainedTokenizerFast.from_pretrained(str(folder), **options, **known)


def _ids(backend: Any, text: str) -> list[int]:
    return backend.encode(text, add_special_tokens=False).ids


def _parts(backend: Any) -> list[Any]:
    """Returns what decides how a text is cut into ids."""
    state = json.loads(backend.to_str())
    return [state[name] for name in ("normalizer", "pre_tokenizer", "model")]


def _class_for(folder: Path) -> Any:
    """Returns the plain fast tokenizer where the folder asks for it, else AutoTokenizer, which loads torch (3 s)."""
    config = folder / "tokenizer_config.json"
    asked = json.loads(config.read_text()) if config.is_file() else {}
    if asked.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast") and "auto_map" not in asked:
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast
    from transformers import AutoTokenizer

    return AutoTokenizer


def byte_tokenizer() -> Any:
    """Returns a tokenizer of one token per byte, with ChatML and pad equal to eos; the vocabulary fits in 512."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in (START, END)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=END, additional_special_tokens=[START]
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@dataclass(frozen=True)
class Tokenised:
    row: Row
    full_length: int  # tokens before the cut at max_length


class Tokeniser:
    """Gives the ids that the tokenizer's own `apply_chat_template(tokenize=True)` gives, cut at `max_length`."""

    def __init__(self, tokenizer: Any, max_length: int | None) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.bos = _own_bos(tokenizer)
        self.eos = tokenizer.eos_token_id

    def __call__(self, batch: Sequence[Rendered]) -> list[Tokenised]:
        encoded = self.tokenizer(
            [rendered.text for rendered in batch],
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return [
            self._row(rendered, ids, offsets)
            for rendered, ids, offsets in zip(batch, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]

    def _row(self, rendered: Rendered, ids: list[int], offsets: list[tuple[int, int]]) -> Tokenised:
        input_ids = np.array(ids, dtype=np.int32)
        flat = np.fromiter(chain.from_iterable(offsets), dtype=np.int64, count=2 * len(offsets))
        trained = _inside(rendered, flat.reshape(-1, 2))
        if rendered.add_bos and self.bos is not None and ids[:1] != [self.bos]:
            input_ids, trained = np.insert(input_ids, 0, self.bos), np.insert(trained, 0, False)
        if rendered.add_eos and self.eos is not None and ids[-1:] != [self.eos]:
            input_ids, trained = np.append(input_ids, np.int32(self.eos)), np.append(trained, True)
        cut = slice(0, self.max_length)
        return Tokenised(Row(input_ids[cut], trained[cut]), len(input_ids))


def _inside(rendered: Rendered, offsets: np.ndarray) -> np.ndarray:
    """Returns which tokens begin inside a trained span; spaces before it that a token took along do not count.

    A token that begins with other text of the prompt is never what the model generates there: not trained.
    """
    trained = np.zeros(len(offsets), dtype=bool)
    starts, ends = offsets[:, 0], offsets[:, 1]
    for start, end in rendered.spans:
        free = len(rendered.text[:start].rstrip(" "))
        trained |= (starts >= free) & (ends > start) & (ends <= end)
    return trained


def _own_bos(tokenizer: Any) -> int | None:
    """Returns the begin token if the tokenizer puts one before a text by itself."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id if tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id else None
