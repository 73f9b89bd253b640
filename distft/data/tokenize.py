"""Tokenization: loads tokenizers, and turns rendered rows into token ids and a mask of trained tokens.

Trap: the class named in tokenizer_config.json builds its own pipeline around the vocabulary. Where that differs from
tokenizer.json, its ids silently differ from those the model was trained on. So tokenizer.json decides.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from distft.data.offsets import Encoded, Encoder
from distft.data.render import Rendered
from distft.data.shards import Row

START, END = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def load_tokenizer(folder: Path | str | None, trust_remote_code: bool = False) -> Any:
    """Returns the tokenizer of a local folder, or the byte tokenizer for None; raises ValueError unless it is fast."""
    if folder is None:
        return byte_tokenizer()
    options = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        tokenizer = _class_for(Path(folder)).from_pretrained(str(folder), **options)
    except Exception as error:  # its loaders raise many types
        reason = str(error).strip().splitlines()[0]
        way_out = "Try: model.tokenizer=FOLDER, with the model's tokenizer"
        raise ValueError(f"{folder} has no tokenizer that can be loaded: {reason} {way_out}") from error
    if not tokenizer.is_fast:
        raise ValueError(f"{folder} has only a slow tokenizer. Try: convert it to tokenizer.json")
    return _of_file(Path(folder), tokenizer, options)


def _of_file(folder: Path, tokenizer: Any, options: dict[str, Any]) -> Any:
    """Returns the tokenizer if it gives the ids of its folder's tokenizer.json, else one loaded from that file."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    file = folder / "tokenizer.json"
    if type(tokenizer) is PreTrainedTokenizerFast or not file.is_file():  # loaded from that file already
        return tokenizer
    wanted = Tokenizer.from_file(str(file))
    special = f"a{tokenizer.eos_token or ''}b"  # some insert a space after a special token
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
    """Returns the parts of a tokenizer that determine its ids."""
    state = json.loads(backend.to_str())
    return [state[name] for name in ("normalizer", "pre_tokenizer", "model")]


def _class_for(folder: Path) -> Any:
    """Returns the plain fast class where the folder names it, else AutoTokenizer, which loads torch (3 s)."""
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text()) if config.is_file() else {}
    if (
        settings.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
        and "auto_map" not in settings
    ):
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast
    from transformers import AutoTokenizer

    return AutoTokenizer


def byte_tokenizer() -> Any:
    """Returns a tokenizer of one token per byte, with ChatML and pad equal to eos; it has fewer than 512 tokens."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_backend(), eos_token=END, pad_token=END, additional_special_tokens=[START]
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def _byte_backend() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in (START, END)])
    return backend


def vocabulary_of(folder: Path | None) -> dict[int, str]:
    """Returns the tokens of a folder's tokenizer.json by id, of the byte tokenizer for None; without transformers.

    Raises ValueError where the folder has no such file.
    """
    from tokenizers import Tokenizer

    if folder is not None and not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} has no tokenizer.json. Try: save its tokenizer with transformers' save_pretrained")
    backend = _byte_backend() if folder is None else Tokenizer.from_file(str(folder / "tokenizer.json"))
    return {number: token for token, number in backend.get_vocab(with_added_tokens=True).items()}


@dataclass(frozen=True)
class TokenizedRow:
    row: Row
    full_length: int  # tokens before truncation to max_length
    words: tuple[int, ...] = ()  # of tags: the tagged word of each token that is read


class RowTokenizer:
    """Returns the ids of the tokenizer's `apply_chat_template(tokenize=True)` with the weights of the trained ones."""

    def __init__(self, tokenizer: Any, max_length: int | None = None) -> None:
        """max_length: rows are cut to so many tokens; None: whole."""
        self.tokenizer, self.max_length = tokenizer, max_length
        self.bos = _own_bos(tokenizer)
        self.eos = tokenizer.eos_token_id
        self.encoder = Encoder(tokenizer)

    def __call__(self, batch: Sequence[Rendered]) -> list[TokenizedRow]:
        encoded = self.encoder(batch)
        weights = _weights(batch, encoded)
        trained, borders = weights > 0, [0, *np.cumsum(encoded.lengths).tolist()]
        return [
            self._row(rendered, encoded.input_ids[start:end], trained[start:end], weights[start:end])
            for rendered, (start, end) in zip(batch, pairwise(borders), strict=True)
        ]

    def _row(self, rendered: Rendered, ids: np.ndarray, trained: np.ndarray, weights: np.ndarray) -> TokenizedRow:
        if rendered.add_bos or rendered.add_eos:
            ids, weights = self._with_ends(rendered, ids, weights)
            trained = weights > 0
        cut = slice(0, self.max_length)
        row = Row(ids[cut], trained[cut], weights[cut] if rendered.weights else None)
        return TokenizedRow(row, len(ids))

    def _with_ends(self, rendered: Rendered, ids: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids and weights of plain text with the tokenizer's own bos and eos tokens, where it has none yet."""
        add_bos = rendered.add_bos and ids[:1].tolist() != [self.bos]
        add_eos = rendered.add_eos and ids[-1:].tolist() != [self.eos]
        if add_bos and self.bos is not None:
            ids, weights = np.insert(ids, 0, self.bos), np.insert(weights, 0, 0.0)
        if add_eos and self.eos is not None:
            last = rendered.weights[-1] if rendered.weights else float(bool(rendered.spans))
            ids, weights = np.append(ids, np.int32(self.eos)), np.append(weights, np.float32(last))
        return ids, weights


def _weights(batch: Sequence[Rendered], encoded: Encoded) -> np.ndarray:
    """Returns the weights float32 [T] of the tokens that begin inside a trained span, or in the spaces before one.

    A token that begins with other prompt text has weight 0, as all others: the model never generates it there.
    """
    found = np.zeros(len(encoded.input_ids), dtype=np.float32)
    sizes = [encoded.position(rendered.text, len(rendered.text)) + 1 for rendered in batch]
    bases = np.cumsum([0, *sizes])[:-1]  # the texts in a row, with a gap after each
    shift = np.repeat(bases, encoded.lengths)
    starts, ends = encoded.starts + shift, encoded.ends + shift
    spans: list[tuple[int, int, int]] = []
    weights: list[float] = []
    for rendered, base in zip(batch, bases.tolist(), strict=True):
        is_direct = not encoded.in_bytes or rendered.text.isascii()
        for start, end in rendered.spans:
            free = _free(rendered.text, start)
            if not is_direct:
                free, start, end = (encoded.position(rendered.text, edge) for edge in (free, start, end))
            spans.append((base + free, base + start, base + end))
        weights += rendered.weights or [1.0] * len(rendered.spans)
    if not spans:
        return found
    if (starts[1:] >= starts[:-1]).all() and (ends[1:] >= ends[:-1]).all():
        edges = np.array(spans, dtype=np.int64)
        first = np.maximum(np.searchsorted(starts, edges[:, 0]), np.searchsorted(ends, edges[:, 1], side="right"))
        last = np.searchsorted(ends, edges[:, 2], side="right")
        for begin, end, weight in zip(first.tolist(), last.tolist(), weights, strict=True):
            found[begin:end] = weight
        return found
    for (free, start, end), weight in zip(spans, weights, strict=True):  # a tokenizer that gives some token no place
        found[(starts >= free) & (ends > start) & (ends <= end)] = weight
    return found


def _free(text: str, start: int) -> int:
    """Returns where the spaces before a position begin."""
    while start and text[start - 1] == " ":
        start -= 1
    return start


def _own_bos(tokenizer: Any) -> int | None:
    """Returns the bos id if the tokenizer prepends it to plain text, else None."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id if tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id else None
