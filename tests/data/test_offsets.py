"""The places of tokens added up from the sizes of byte-level tokens decide as the library's offsets do."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from distft.data.offsets import MANY, Encoder, byte_level
from distft.data.render import Rendered
from distft.data.tokenize import RowTokenizer, byte_tokenizer

START, END = "<|im_start|>", "<|im_end|>"
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("Ġ", "a"), ("a", "b"), ("Ġa", "b"), ("Ċ", "Ċ"), ("Ġ", "Ġ"), ("Ã", "©")]


def learnt(trims: bool = False, nfc: bool = False, missing: str = "", unknown: str | None = None) -> Any:
    """A byte-level BPE with some merges; missing: letters of the alphabet that have no token."""
    merges = [pair for pair in MERGES if not set("".join(pair)) & set(missing)]
    symbols = [letter for letter in LETTERS if letter not in missing] + ["".join(pair) for pair in merges]
    symbols += [unknown] if unknown else []
    backend = Tokenizer(
        models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=merges, unk_token=unknown)
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=trims)
    if nfc:
        backend.normalizer = normalizers.NFC()
    backend.add_special_tokens([AddedToken(token, special=True) for token in (START, END)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END, unk_token=unknown)


TOKENIZERS = {
    "bytes": byte_tokenizer(),
    "merges": learnt(),
    "trims": learnt(trims=True),
    "nfc": learnt(nfc=True),
    "missing": learnt(missing="Ãb"),
    "unknown": learnt(missing="Ãb", unknown="x"),
}
texts = st.lists(st.text("ab  \nxé\u0301🏛Ω\u2126") | st.just(END), min_size=1, max_size=8).map("".join)


@st.composite
def rendered(draw: Any) -> Rendered:
    text = draw(texts)
    edges = sorted(draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=4)))
    return Rendered(text, tuple(zip(edges[::2], edges[1::2], strict=False)))


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=20, deadline=None)
@given(batch=st.lists(rendered(), min_size=MANY, max_size=MANY))
def test_sizes_and_offsets_train_the_same_tokens(name: str, batch: list[Rendered]):
    tokenizer = RowTokenizer(TOKENIZERS[name])
    together, alone = tokenizer(batch), [tokenizer([each])[0] for each in batch]
    for one, other in zip(together, alone, strict=True):
        assert one.row.input_ids.tolist() == other.row.input_ids.tolist()
        assert one.row.trained.tolist() == other.row.trained.tolist()


def test_sizes_are_used_for_bytes_and_offsets_for_others():
    batch = [Rendered("a é", ())] * MANY
    assert all(Encoder(tokenizer)(batch).in_bytes for tokenizer in TOKENIZERS.values())
    assert not Encoder(TOKENIZERS["bytes"])(batch[1:]).in_bytes
    spaces = learnt()
    spaces.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    words = learnt()
    words.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    stripping = learnt()
    stripping.backend_tokenizer.add_special_tokens([AddedToken("<s>", special=True, lstrip=True)])
    lower = learnt()
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    for each in (spaces, words, stripping, lower):
        assert byte_level(each, json.loads(each.backend_tokenizer.to_str())) is None


def test_a_byte_without_a_token_falls_back_to_the_library():
    encoded = Encoder(TOKENIZERS["missing"])([Rendered("xéx", ((0, 3),))] * MANY)
    assert encoded.ends[: encoded.lengths[0]].tolist() == [1, 3, 3]  # as the library says; sizes alone: [1, 2, 3]


def test_a_tokenizer_that_changes_texts_is_asked_itself():
    class Shouting(PreTrainedTokenizerFast):
        def __call__(self, text: Any, **options: Any) -> Any:  # type: ignore[override]  # those that are used here
            return super().__call__([each.upper() for each in text] if isinstance(text, list) else text, **options)

    tokenizer = Shouting(tokenizer_object=byte_tokenizer().backend_tokenizer, eos_token=END, pad_token=END)
    rows = RowTokenizer(tokenizer)([Rendered("ab", ((0, 2),))] * MANY)
    assert tokenizer.decode(rows[0].row.input_ids) == "AB"


def test_a_tokenizers_own_cut_does_not_cut_rows():
    tokenizer = learnt()
    encoder = RowTokenizer(tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    rows = encoder([Rendered("x a b", ((0, 5),))] * MANY)
    assert np.array_equal(rows[0].row.input_ids, encoder([Rendered("x a b", ())])[0].row.input_ids)
    assert rows[0].full_length == 4
