from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from distft.data.tokenize import byte_tokenizer, load_tokenizer
from distft.run import read_json, write_json

TOKENIZER = byte_tokenizer()
SYMBOLS = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "12"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_bytes_go_there_and_back(text: str):
    assert TOKENIZER.decode(TOKENIZER(text, add_special_tokens=False)["input_ids"]) == text


def test_the_byte_vocabulary_fits_a_tiny_model_and_pads_with_its_end_token():
    assert len(TOKENIZER) == 258
    assert TOKENIZER.pad_token_id == TOKENIZER.eos_token_id == 257


def test_a_saved_tokenizer_loads_with_its_template(tmp_path: Path):
    byte_tokenizer().save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded("héé")["input_ids"] == TOKENIZER("héé")["input_ids"]
    assert loaded.chat_template == TOKENIZER.chat_template


def test_the_short_way_and_the_librarys_own_way_load_the_same(tmp_path: Path):
    from transformers import AutoTokenizer

    byte_tokenizer().save_pretrained(tmp_path)
    own = AutoTokenizer.from_pretrained(tmp_path)
    chat = [{"role": "user", "content": "héé"}, {"role": "assistant", "content": " ok\n"}]
    assert load_tokenizer(tmp_path).apply_chat_template(chat) == own.apply_chat_template(chat)
    assert load_tokenizer(tmp_path).get_vocab() == own.get_vocab()


@pytest.mark.parametrize(
    "named", ["LlamaTokenizerFast", "GPT2TokenizerFast", "Qwen2Tokenizer", "CodeLlamaTokenizerFast"]
)
def test_whatever_the_class_the_ids_are_those_of_the_file(tmp_path: Path, named: str):
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
