"""The converted demo model is the model that llama.cpp stored."""

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from distft.demo.gguf import convert, hugging_face_name, original_row_order

SENTENCE = (
    "The history of the city goes back to the Middle Ages, when merchants settled along the river and built the first "
    "wooden bridge. Over the centuries it grew into a centre of trade and learning, with a famous university, several "
    "churches and a large market square where people still meet every week to buy fresh bread, fruit and flowers."
)


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's own converter does to query and key rows."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(model: LlamaForCausalLM, path: Path) -> None:
    """Stores a tiny Llama the way llama.cpp does, with a byte-level tokenizer of 256 letters and 3 control tokens."""
    c: Any = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    alphabet = sorted(bytes_to_letters())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet, "12"])
    writer.add_token_types([3, 3, 3] + [1] * 257)
    writer.add_token_merges(["1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}")
    names = [f"blk.{n}.{part}.weight" for n in range(c.num_hidden_layers) for part in PARTS]
    for name in ["token_embd.weight", "output_norm.weight", *names]:
        weight = model.state_dict()[hugging_face_name(name)].numpy()
        if ".attn_q." in name:
            weight = interleaved(weight, c.num_attention_heads)
        if ".attn_k." in name:
            weight = interleaved(weight, c.num_key_value_heads)
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


PARTS = "attn_norm attn_q attn_k attn_v attn_output ffn_norm ffn_gate ffn_up ffn_down".split()


def bytes_to_letters() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return ByteLevel.alphabet()


@pytest.fixture(scope="module")
def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
    )  # fmt: skip
    return LlamaForCausalLM(config).to(torch.bfloat16).to(torch.float32)


@pytest.fixture(scope="module")
def converted(tiny: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(tiny, folder / "tiny.gguf")
    convert(folder / "tiny.gguf", folder / "model")
    return folder / "model"


@pytest.mark.slow
def test_a_converted_model_has_its_logits(tiny: LlamaForCausalLM, converted: Path):
    again = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32)
    ids = torch.tensor([[5, 9, 17, 200, 3]])
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, tiny(ids).logits, rtol=0, atol=1e-6)


def test_the_tokenizer_reopens_with_its_template_and_eos(converted: Path):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    turn = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(turn, tokenize=False) == "<|im_start|>hi<|im_end|>"
    assert (
        tokenizer.convert_ids_to_tokens(tokenizer("hi<|im_end|>").input_ids)[-1] == tokenizer.eos_token == "<|im_end|>"
    )


def test_digits_are_single_tokens_even_if_a_merge_exists(converted: Path):
    assert AutoTokenizer.from_pretrained(converted).tokenize("12") == ["1", "2"]


@pytest.mark.parametrize("text", ["1234 + 0.5", "café naïve Ünïcode", "🎉👩‍🚀", "a  b\n\tc", "日本語"])
def test_text_survives_a_round_trip(converted: Path, text: str):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_row_order_undoes_the_interleaving():
    weight = np.arange(48.0).reshape(16, 3)
    assert not np.array_equal(interleaved(weight, 2), weight)
    np.testing.assert_array_equal(original_row_order(interleaved(weight, 2), 2), weight)


def test_a_file_with_a_missing_tensor_is_refused(
    tiny: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(f"{__name__}.PARTS", [part for part in PARTS if part != "ffn_up"])
    write_gguf(tiny, tmp_path / "tiny.gguf")
    with pytest.raises(RuntimeError, match=r"model\.layers\.0\.mlp\.up_proj\.weight"):
        convert(tmp_path / "tiny.gguf", tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_the_demo_model_knows_english(demo_dir: Path):
    model = AutoModelForCausalLM.from_pretrained(demo_dir / "smollm2-135m-instruct", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(demo_dir / "smollm2-135m-instruct")
    ids = torch.tensor([tokenizer(SENTENCE).input_ids])
    shuffled = ids[:, torch.randperm(ids.shape[1], generator=torch.Generator().manual_seed(0))]

    def perplexity(tokens: torch.Tensor) -> float:
        with torch.no_grad():
            return math.exp(model(input_ids=tokens, labels=tokens).loss)

    assert perplexity(ids) < 25
    assert perplexity(shuffled) > 500
