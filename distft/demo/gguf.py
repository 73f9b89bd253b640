"""GGUF conversion: a Llama-family GGUF file to the Hugging Face folder that it was made from.

Traps, each silent: llama.cpp permutes the rows of the query and key projections; the common tokenizer conversion does
not split digits; a tied head is stored once; pad and end of turn are the same token.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Fields = Mapping[str, Any]  # metadata of a GGUF file by key

_CONTROL_TOKEN = 3  # llama.cpp's type of special tokens such as <|im_start|>
_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def convert(source: Path, out: Path) -> None:
    """Writes the folder `out` with bf16 safetensors, config and tokenizer; it is published by one rename."""
    reader = gguf.GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = model_config(fields, tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
    tensors = {}
    for tensor in reader.tensors:
        weight = gguf.dequantize(tensor.data, tensor.tensor_type)
        if ".attn_q." in tensor.name:
            weight = original_row_order(weight, config.num_attention_heads)
        elif ".attn_k." in tensor.name:
            weight = original_row_order(weight, config.num_key_value_heads or config.num_attention_heads)
        tensors[hugging_face_name(tensor.name)] = torch.tensor(weight, dtype=torch.bfloat16)
    check_complete(config, tensors)

    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    (partial / "model.safetensors").chmod(0o644)  # save_file sets 0600, unreadable in a shared cache
    config.save_pretrained(partial)
    tokenizer_of(fields).save_pretrained(partial)
    GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    ).save_pretrained(partial)
    os.rename(partial, out)


def model_config(fields: Fields, *, tied: bool) -> LlamaConfig:
    """Returns the model config from the file's `llama.*` fields."""

    def llama(name: str) -> Any:
        return fields[f"llama.{name}"]

    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        hidden_size=llama("embedding_length"),
        intermediate_size=llama("feed_forward_length"),
        num_hidden_layers=llama("block_count"),
        num_attention_heads=llama("attention.head_count"),
        num_key_value_heads=llama("attention.head_count_kv"),
        max_position_embeddings=llama("context_length"),
        rms_norm_eps=float(f"{llama('attention.layer_norm_rms_epsilon'):.6g}"),  # 1e-5 comes as 9.9999997e-06
        rope_parameters={"rope_type": "default", "rope_theta": llama("rope.freq_base")},
        tie_word_embeddings=tied,
        bos_token_id=fields["tokenizer.ggml.bos_token_id"],
        eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        pad_token_id=fields["tokenizer.ggml.padding_token_id"],
        dtype="bfloat16",
    )


def original_row_order(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undoes llama.cpp's interleaving of the two rotary halves of each head."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, half, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def hugging_face_name(name: str) -> str:
    """Returns `model.layers.3.mlp.up_proj.weight` for `blk.3.ffn_up.weight`; raises KeyError for an unknown tensor."""
    part, *rest, kind = name.split(".")
    if part == "blk":
        return f"model.layers.{rest[0]}.{_BLOCK_NAMES[rest[1]]}.{kind}"
    return f"{_OUTER_NAMES[part]}.{kind}"


def check_complete(config: LlamaConfig, tensors: dict[str, torch.Tensor]) -> None:
    """Raises RuntimeError unless names and shapes of `tensors` match the architecture exactly."""
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight", None)
    found = {name: tensor.shape for name, tensor in tensors.items()}
    wrong = sorted(dict(expected.items() ^ found.items()))
    if wrong:
        raise RuntimeError(
            f"the GGUF file does not match the architecture: {', '.join(wrong[:5])} ({len(wrong)} wrong)"
        )


def tokenizer_of(fields: Fields) -> PreTrainedTokenizerFast:
    """Returns the byte-level BPE with its chat template; digits, accents and emoji survive a round trip."""
    if fields["tokenizer.ggml.pre"] != "smollm":
        raise RuntimeError(f"tokenizer.ggml.pre={fields['tokenizer.ggml.pre']!r} is not supported. Allowed: 'smollm'")
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[fields["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[fields["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[fields["tokenizer.ggml.padding_token_id"]],
        unk_token=tokens[fields["tokenizer.ggml.unknown_token_id"]],
        model_max_length=fields["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = fields["tokenizer.chat_template"]
    return fast
