"""Rows are tokenized like apply_chat_template, and exactly the assistant's tokens are trained."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from distft.data.example import Example, Segment
from distft.data.render import ChatRenderer, PlainRenderer
from distft.data.tokenize import RowTokenizer, byte_tokenizer, load_tokenizer
from distft.run import read_json, write_json
from tests.data.conftest import FAMILIES, TEMPLATES, family_tokenizer

TALK = ["What is the capital of France?", "The capital of France is Paris.", "And of Italy?", " Rome 🏛, naturally é."]
CORPUS = [*TALK, "the the capital of of is is a an\n\n\nnewlines", "user assistant system"]


def learnt_tokenizer(template: str, metaspace: bool) -> Any:
    """A tokenizer with merges over several letters, as byte-level BPE or in the manner of sentencepiece."""
    bos, eos, others = FAMILIES[template]
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace() if metaspace else pre_tokenizers.ByteLevel(False)
    backend.decoder = decoders.Metaspace() if metaspace else decoders.ByteLevel()
    alphabet = [] if metaspace else pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS * 3, trainer)
    backend.add_special_tokens([AddedToken(token, special=True) for token in (bos, eos, *others) if token])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos, pad_token=eos)
    tokenizer.chat_template = (TEMPLATES / f"{template}.jinja").read_text()
    return tokenizer


TOKENIZERS = {family: family_tokenizer(family) for family in FAMILIES} | {
    "learnt llama3": learnt_tokenizer("llama3", metaspace=False),
    "learnt qwen3": learnt_tokenizer("qwen3", metaspace=False),
    "learnt mistral": learnt_tokenizer("mistral", metaspace=True),
}
everywhere = pytest.mark.parametrize("name", TOKENIZERS)


def added(tokenizer: Any) -> list[Any]:
    return list(tokenizer.added_tokens_decoder.values())


def chat(*texts: str) -> Example:
    roles = ["user", "assistant"] * len(texts)
    return Example(tuple(Segment(r, t, r == "assistant") for r, t in zip(roles, texts, strict=False)))


def row_of(tokenizer: Any, example: Example, max_length: int = 4096) -> Any:
    return RowTokenizer(tokenizer, max_length)([ChatRenderer(tokenizer)(example)])[0].row


def trained_text(tokenizer: Any, row: Any) -> str:
    return tokenizer.decode(row.input_ids[row.trained])


@everywhere
def test_ids_match_apply_chat_template(name: str):
    tokenizer = TOKENIZERS[name]
    messages = [{"role": r, "content": t} for r, t in zip(["user", "assistant"] * 2, TALK, strict=True)]
    own = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    assert row_of(tokenizer, chat(*TALK)).input_ids.tolist() == own


@everywhere
def test_a_row_has_exactly_one_begin_token(name: str):
    tokenizer = TOKENIZERS[name]
    ids = row_of(tokenizer, chat(*TALK[:2])).input_ids.tolist()
    if tokenizer.bos_token and "bos_token" in tokenizer.chat_template:
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1


@everywhere
def test_only_assistant_tokens_are_trained(name: str):
    tokenizer = TOKENIZERS[name]
    said = trained_text(tokenizer, row_of(tokenizer, chat(*TALK)))
    for allowed in ("The capital of France is Paris.", "Rome 🏛, naturally é.", *map(str, added(tokenizer))):
        said = said.replace(allowed, "")
    if name == "learnt mistral":  # whose small vocabulary lacks the emoji
        said = said.replace("Rome , naturally .", "")
    assert not said.strip()


@everywhere
def test_the_end_of_turn_is_trained_though_pad_equals_eos(name: str):
    tokenizer = TOKENIZERS[name]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    row = row_of(tokenizer, chat(*TALK[:2]))
    last = int(np.flatnonzero(row.trained)[-1])
    assert tokenizer.convert_ids_to_tokens(int(row.input_ids[last])) in {
        *("<|im_end|>", "<|eot_id|>", "</s>", "<end_of_turn>", "<|end|>", "<|return|>")
    }
    assert not row.trained[last + 1 :].any()


def test_a_first_token_merged_with_a_space_is_trained():
    tokenizer = learnt_tokenizer("llama2", metaspace=True)
    row = row_of(tokenizer, chat("And of Italy?", "The capital"))
    first = int(np.flatnonzero(row.trained)[0])
    assert tokenizer.convert_ids_to_tokens(int(row.input_ids[first])).startswith("▁The")


def test_a_token_merged_with_the_prompt_is_not_trained():
    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ĊĊ"]
    backend = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[("Ċ", "Ċ")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.chat_template = byte_tokenizer().chat_template
    assert trained_text(tokenizer, row_of(tokenizer, chat("a", "\nas"))) == "as<|im_end|>"
    assert trained_text(tokenizer, row_of(tokenizer, chat("a", "as\n"))) == "as\n<|im_end|>"


def test_plain_text_is_trained_with_one_begin_and_end_token():
    tokenizer = TOKENIZERS["llama2"]
    plain = PlainRenderer()(Example((Segment("text", "some words", True),)))
    row = RowTokenizer(tokenizer, 99)([plain])[0].row
    assert tokenizer.decode(row.input_ids) == "some words</s>"  # this tokenizer adds no begin token by itself
    assert row.trained.all()


def test_a_tokenizers_own_begin_token_is_not_doubled():
    from tokenizers import processors

    tokenizer = family_tokenizer("llama2")
    begin = ("<s>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[begin])
    for text in ("some words", "<s>some words"):
        plain = PlainRenderer()(Example((Segment("text", text, True),)))
        row = RowTokenizer(tokenizer, 99)([plain])[0].row
        assert tokenizer.decode(row.input_ids) == "<s>some words</s>"
    assert row_of(tokenizer, chat("a", "b")).input_ids.tolist().count(begin[1]) == 1


def test_a_row_is_cut_at_its_end_with_its_full_length_known():
    tokenizer = byte_tokenizer()
    made = RowTokenizer(tokenizer, 20)([ChatRenderer(tokenizer)(chat("hello", "a long answer"))])[0]
    whole = RowTokenizer(tokenizer, 999)([ChatRenderer(tokenizer)(chat("hello", "a long answer"))])[0]
    assert made.row.input_ids.tolist() == whole.row.input_ids.tolist()[:20]
    assert made.row.trained.tolist() == whole.row.trained.tolist()[:20]
    assert made.full_length == whole.full_length == len(whole.row.input_ids)


TOKENIZER = byte_tokenizer()
SYMBOLS = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "12"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_bytes_round_trip(text: str):
    assert TOKENIZER.decode(TOKENIZER(text, add_special_tokens=False)["input_ids"]) == text


def test_the_byte_tokenizer_fits_a_tiny_model():
    assert len(TOKENIZER) == 258
    assert TOKENIZER.pad_token_id == TOKENIZER.eos_token_id == 257


def test_a_saved_tokenizer_loads_with_its_template(tmp_path: Path):
    byte_tokenizer().save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded("héé")["input_ids"] == TOKENIZER("héé")["input_ids"]
    assert loaded.chat_template == TOKENIZER.chat_template


def test_direct_and_library_loading_give_the_same_tokenizer(tmp_path: Path):
    from transformers import AutoTokenizer

    byte_tokenizer().save_pretrained(tmp_path)
    own = AutoTokenizer.from_pretrained(tmp_path)
    chat = [{"role": "user", "content": "héé"}, {"role": "assistant", "content": " ok\n"}]
    assert load_tokenizer(tmp_path).apply_chat_template(chat) == own.apply_chat_template(chat)
    assert load_tokenizer(tmp_path).get_vocab() == own.get_vocab()


@pytest.mark.parametrize(
    "named", ["LlamaTokenizerFast", "GPT2TokenizerFast", "Qwen2Tokenizer", "CodeLlamaTokenizerFast"]
)
def test_ids_are_those_of_tokenizer_json_for_any_class(tmp_path: Path, named: str):
    """A byte-level BPE that cuts numbers into digits, which none of these classes does."""
    backend = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(SYMBOLS)}, merges=[("1", "2")]))
    digits, letters = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, letters])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    saved = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>")
    saved.chat_template = TOKENIZER.chat_template
    saved.save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    write_json(config, read_json(config) | {"tokenizer_class": named})
    loaded = load_tokenizer(tmp_path)
    for text in ("12 + 12 = 24", " 1212<|im_end|>12é"):
        assert loaded(text, add_special_tokens=False)["input_ids"] == backend.encode(text).ids
    assert (loaded.eos_token, loaded.chat_template) == ("<|im_end|>", TOKENIZER.chat_template)


def test_a_folder_without_a_tokenizer_is_refused_by_name(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match=f"{tmp_path} .*tokenizer"):
        load_tokenizer(tmp_path)
