from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distft.data.tokenizers import byte_tokenizer, load_tokenizer

TOKENIZER = byte_tokenizer()


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


def test_a_folder_without_a_tokenizer_is_refused_by_name(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match=f"{tmp_path} .*tokenizer"):
        load_tokenizer(tmp_path)
