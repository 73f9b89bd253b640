"""Ids looked up by word are those of the tokenizers library."""

import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, models, pre_tokenizers

from distft.data.offsets import MANY, Encoder
from distft.data.pretokens import Pretokenizer, known_letters, make_pretokenizer
from distft.data.render import Rendered
from tests.data.test_offsets import LETTERS, learnt

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ENDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDS}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDS}|\p{{N}}{{1,3}}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KNOWN = known_letters()


def cut_by(steps: list[Any], added: tuple[str, ...] = ()) -> Any:
    """Returns a byte-level tokenizer with some merges that cuts texts in these steps."""
    tokenizer = learnt(nfc=steps == [])
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not any("Split" in repr(step) for step in steps))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, level])
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(each, special=True) for each in added]})
    return tokenizer


def split_by(pattern: str) -> list[Any]:
    return [pre_tokenizers.Split(Regex(pattern), "isolated")]


TOKENIZERS = {
    "gpt2": cut_by([]),
    "smollm2": cut_by([pre_tokenizers.Digits(individual_digits=True)], ("<a>", "<a><b>", "ab")),
    "llama3": cut_by(split_by(LLAMA3)),
    "qwen2": cut_by(split_by(QWEN2)),
    "o200k": cut_by(split_by(O200K)),
}


def pretokenizer_of(tokenizer: Any) -> Pretokenizer | None:
    return make_pretokenizer(tokenizer, json.loads(tokenizer.backend_tokenizer.to_str()))


PRETOKENIZERS = {name: pretokenizer_of(each) for name, each in TOKENIZERS.items()}
letters = st.sampled_from("ab sStT'rReE 019\n\r\t\x0b\x1c\x1f\x85\xa0.,/_é\u0301ſK½²Ωж中🏛")
texts = st.lists(letters | st.sampled_from(KNOWN) | st.sampled_from(["<|im_end|>", "<a>", "<b>", "  "])).map("".join)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=200, deadline=None)
@given(text=texts)
def test_ids_of_words_are_those_of_the_library(name: str, text: str):
    pretokenizer = PRETOKENIZERS[name]
    assert pretokenizer is not None
    found = pretokenizer(text)
    assert found in (None, TOKENIZERS[name].backend_tokenizer.encode(text, add_special_tokens=False).ids)
    assert found is not None or not text.isascii()


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_known_letter_is_cut_as_by_the_library(name: str):
    text = "".join(f"{each}a1{each}{each} " for each in KNOWN[:: 7 if name == "gpt2" else 31] if each.strip())
    found, backend = PRETOKENIZERS[name], TOKENIZERS[name].backend_tokenizer
    assert found is not None
    pieces = [text[i : i + 500] for i in range(0, len(text), 500)]
    wanted = [each.ids for each in backend.encode_batch(pieces, add_special_tokens=False)]
    assert all(ids in (None, want) for ids, want in zip(map(found, pieces), wanted, strict=True))
    assert sum(ids is None for ids in map(found, pieces)) < len(pieces) // 2


def test_letters_of_later_versions_are_left_to_the_library():
    found = PRETOKENIZERS["llama3"]
    assert found is not None and found("héllo, \u2018wörld\u2019 中文 12") is not None
    assert [found(text) for text in ("🏛", "it'ſ", "\u0560")] == [None] * 3
    normalizing = PRETOKENIZERS["gpt2"]
    assert normalizing is not None and normalizing("é") is not None and normalizing("e\u0301") is None


def test_other_tokenizers_are_left_to_the_library():
    patterns = [r"\p{L}++", r"\p{L}*", r"(\p{L})", r"\p{Han}+", r"\w+", r"\h+", r"\b\p{L}+", r"[\p{L}&&[a-z]]+"]
    steps = [
        *map(split_by, patterns),
        [pre_tokenizers.Digits(individual_digits=False)],
        [pre_tokenizers.Split(Regex(QWEN2), "removed")],
        [pre_tokenizers.Split(Regex(QWEN2), "isolated", invert=True)],
        [pre_tokenizers.Punctuation()],
        [*split_by(QWEN2), *split_by(QWEN2)],
    ]
    made = [cut_by(each) for each in steps]
    dropping, mixed = cut_by([]), cut_by([])
    dropping.backend_tokenizer.model = models.BPE({each: i for i, each in enumerate(LETTERS)}, [], dropout=0.5)
    mixed.backend_tokenizer.add_tokens([AddedToken("xy", normalized=True)])
    assert [pretokenizer_of(each) for each in (*made, dropping, mixed)] == [None] * (len(made) + 2)


def test_words_that_split_otherwise_are_left_to_the_library():
    of_another = json.loads(TOKENIZERS["smollm2"].backend_tokenizer.to_str())
    assert make_pretokenizer(TOKENIZERS["smollm2"], of_another) is not None
    assert make_pretokenizer(TOKENIZERS["gpt2"], of_another) is None


def test_an_encoder_looks_words_up_and_leaves_them_behind():
    encoder = Encoder(TOKENIZERS["gpt2"])
    encoder([Rendered("ab ab 🏛", ()), *[Rendered("ab ab", ())] * MANY])
    assert encoder._level is not None and encoder._level[1] is not None
    assert {"ab", " ab"} < set(encoder._level[1]._words)
    assert "_words" not in vars(pickle.loads(pickle.dumps(encoder))._level[1])
