"""Where tokens lie in their text: as the tokenizers library says, or added up from the lengths of their bytes.

A byte-level token stands for certain bytes, so the ends of a text's tokens are the running sum of their sizes, which
must come to the size of the text; where a byte has no token, it falls short. That costs a quarter less time than the
library's offsets. Positions in bytes decide as those in characters do where they are compared with borders of
characters.
Trap: a normalizer, a space put before a text, and added tokens that take spaces with them change the bytes; a
post-processor may leave the spaces of a token out of its offsets.
"""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from distft.data.pretokens import Pretokenizer, State, make_pretokenizer
from distft.data.render import Rendered

MANY = 16  # texts, from which on the lengths of all tokens are worth looking up


@dataclass(frozen=True)
class Encoded:
    """The tokens of several texts, one after another."""

    input_ids: np.ndarray  # int32 [T]
    lengths: np.ndarray  # int64 [texts], tokens of each
    starts: np.ndarray  # int64 [T], in the token's own text, in bytes or in characters
    ends: np.ndarray  # int64 [T]
    in_bytes: bool

    def position(self, text: str, character: int) -> int:
        """Returns a position in a text in the unit of starts and ends."""
        return len(text[:character].encode()) if self.in_bytes and not text.isascii() else character


@dataclass(frozen=True)
class ByteLevel:
    """A tokenizer whose tokens stand for bytes."""

    sizes: np.ndarray  # int64 [vocabulary], bytes of each token
    has_normalizer: bool  # to NFC
    trims: bool  # whether the library's offsets leave out the spaces of a token

    def fits(self, rendered: Rendered) -> bool:
        """Returns whether the sizes of a text's tokens decide about its spans as the library's offsets do."""
        text = rendered.text
        if self.has_normalizer and not text.isascii() and not unicodedata.is_normalized("NFC", text):
            return False
        edges = {edge for span in rendered.spans for edge in span} if self.trims else ()
        return not any(" " in text[max(0, edge - 1) : edge + 1] for edge in edges)


class Encoder:
    """Encodes texts without the special tokens that a tokenizer adds by itself."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.is_direct = _is_direct(tokenizer)

    def __call__(self, batch: Sequence[Rendered]) -> Encoded:
        """Returns the tokens of texts, with places that are right near the spans of each."""
        texts = [rendered.text for rendered in batch]
        if len(batch) < MANY or self._level is None:
            return self._in_characters(texts)
        level, pretokenizer = self._level
        encoded = self._in_bytes(self._ids(texts, pretokenizer), level.sizes)
        borders = np.cumsum(encoded.lengths).tolist()
        for i, (rendered, end) in enumerate(zip(batch, borders, strict=True)):
            text, count = rendered.text, encoded.lengths[i]
            size = len(text) if text.isascii() else len(text.encode())
            if not level.fits(rendered) or size != (encoded.ends[end - 1] if count else 0):
                self._replace(encoded, slice(end - count, end), text)
        return encoded

    def _ids(self, texts: list[str], pretokenizer: Pretokenizer | None) -> list[list[int]]:
        """Returns the ids of each text: of its words where they are sure to be found, else as the library says."""
        found = [pretokenizer(text) for text in texts] if pretokenizer else [None] * len(texts)
        asked = [i for i, ids in enumerate(found) if ids is None or i == 0]
        batch = _backend(self.tokenizer).encode_batch_fast([texts[i] for i in asked], add_special_tokens=False)
        answers = {i: each.ids for i, each in zip(asked, batch, strict=True)}
        assert found[0] in (None, answers[0]), f"ids of words and of the library differ: {texts[0]!r}"
        return [answers[i] if ids is None else ids for i, ids in enumerate(found)]

    def _in_bytes(self, ids: Sequence[list[int]], sizes: np.ndarray) -> Encoded:
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        flat = np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(lengths.sum()))
        each = sizes[flat]
        ends = np.cumsum(each)
        before = np.concatenate([[0], ends])[np.cumsum(lengths) - lengths]  # bytes of the texts before
        ends -= np.repeat(before, lengths)
        return Encoded(flat, lengths, ends - each, ends, in_bytes=True)

    def _replace(self, encoded: Encoded, place: slice, text: str) -> None:
        """Puts the library's offsets of one text, in bytes, in place of those added up."""
        one = self._in_characters([text])
        assert np.array_equal(encoded.input_ids[place], one.input_ids), text
        places = np.cumsum([0, *(len(letter.encode()) for letter in text)])
        encoded.starts[place], encoded.ends[place] = places[one.starts], places[one.ends]

    def _in_characters(self, texts: list[str]) -> Encoded:
        encoded = _encode(self.tokenizer, texts, self.is_direct)
        lengths = np.fromiter((len(ids) for ids, _ in encoded), dtype=np.int64, count=len(encoded))
        total = int(lengths.sum())
        input_ids = np.fromiter(chain.from_iterable(ids for ids, _ in encoded), dtype=np.int32, count=total)
        pairs = chain.from_iterable(offsets for _, offsets in encoded)
        flat = np.fromiter(chain.from_iterable(pairs), dtype=np.int64, count=2 * total).reshape(-1, 2)
        return Encoded(input_ids, lengths, flat[:, 0], flat[:, 1], in_bytes=False)

    @cached_property
    def _level(self) -> "tuple[ByteLevel, Pretokenizer | None] | None":
        """What is known of tokens that stand for bytes, and how their words are found; None for other tokenizers."""
        if not self.is_direct:
            return None
        state: State = json.loads(self.tokenizer.backend_tokenizer.to_str())
        level = byte_level(self.tokenizer, state)
        return (level, make_pretokenizer(self.tokenizer, state)) if level else None


def byte_level(tokenizer: Any, state: State) -> ByteLevel | None:
    """Returns what is known of a tokenizer whose tokens stand for bytes; None for any other. state: tokenizer.json"""
    levels = [part for part in _parts(state, "pre_tokenizer") if part["type"] == "ByteLevel"]
    if state["model"]["type"] != "BPE" or not levels or any(level["add_prefix_space"] for level in levels):
        return None
    normalizers = [part["type"] for part in _parts(state, "normalizer")]
    added = {token["content"] for token in state["added_tokens"]}
    takes_spaces = any(token["lstrip"] or token["rstrip"] for token in state["added_tokens"])
    if takes_spaces or any(len(token.split()) != 1 for token in added) or set(normalizers) - {"NFC"}:
        return None
    vocab: dict[str, int] = tokenizer.get_vocab()
    sizes = np.zeros(max(vocab.values()) + 1, dtype=np.int64)
    for token, number in vocab.items():
        sizes[number] = len(token.encode()) if token in added else len(token)
    if (unknown := state["model"].get("unk_token")) in vocab:  # for bytes that have no token
        sizes[vocab[unknown]] = 0
    trims = any(part["type"] == "ByteLevel" and part["trim_offsets"] for part in _parts(state, "post_processor"))
    return ByteLevel(sizes, bool(normalizers), trims)


def _parts(state: State, name: str) -> list[State]:
    """Returns the steps of a part of tokenizer.json, those of a sequence one by one."""
    part = state[name]
    if part is None:
        return []
    inner = next((part[key] for key in ("pretokenizers", "normalizers", "processors") if key in part), None)
    return [part] if inner is None else [step for each in inner for step in _parts({name: each}, name)]


def _encode(tokenizer: Any, texts: list[str], is_direct: bool) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Returns the ids of each text, and the characters (start, end) of each token."""
    if is_direct:
        found = _backend(tokenizer).encode_batch(texts, add_special_tokens=False)
        return [(each.ids, each.offsets) for each in found]
    encoded = tokenizer(
        texts,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))


def _backend(tokenizer: Any) -> Any:
    """Returns the tokenizer of the tokenizers library, set as transformers sets it before it encodes."""
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    return backend


def _is_direct(tokenizer: Any) -> bool:
    """Returns whether the tokenizer does nothing to a text that its backend does not do."""
    special = "".join(map(str, list(tokenizer.added_tokens_decoder.values())[:100]))
    probes = ["Aé 🏛\n\n  b\t12", f"a {special} b{special}c", ""]
    return _encode(tokenizer, probes, False) == _encode(tokenizer, probes, True)
