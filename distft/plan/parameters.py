"""How many parameters a model has, from its files or, before these are here, from the facts of its config.json."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Facts = Mapping[str, Any]
_NO_PARAMETER = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")  # buffers in files of older versions
_HEADER_LIMIT_BYTES = 100_000_000  # of the format


def count_parameters(model_dir: Path | None, facts: Facts) -> int | None:
    """Returns the parameters of the safetensors files in `model_dir`, else of the architecture; None when unknown."""
    if model_dir is not None and (files := sorted(model_dir.glob("*.safetensors"))):
        shapes = {name: shape for file in files for name, shape in tensor_shapes(file).items()}
        tied = _read_facts(model_dir).get("tie_word_embeddings", False)
        left_out = ("lm_head.weight",) if tied and len(shapes) > 1 else ()
        return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith((*_NO_PARAMETER, *left_out)))
    family = FAMILIES.get(str(facts.get("model_type")))
    return family(facts) if family else None


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Returns name -> shape from the header of a safetensors file; nothing else of it is read."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        if not 0 < size <= _HEADER_LIMIT_BYTES:
            raise RuntimeError(f"{file} is no safetensors file: its header claims {size} bytes")
        header = json.loads(opened.read(size))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def _read_facts(model_dir: Path) -> Facts:
    path = model_dir / "config.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _llama(facts: Facts, *, head_norms: bool = False, norms_per_layer: int = 2) -> int:
    """Embedding, layers of gated MLP and grouped attention with RMS norms, a final norm, and the head unless tied."""
    hidden, inner, heads = facts["hidden_size"], facts["intermediate_size"], facts["num_attention_heads"]
    head_dim = facts.get("head_dim") or hidden // heads
    queries, keys = heads * head_dim, (facts.get("num_key_value_heads") or heads) * head_dim
    layer = 2 * hidden * queries + 2 * hidden * keys + 3 * hidden * inner + norms_per_layer * hidden
    if facts.get("attention_bias"):
        layer += queries + 2 * keys + hidden
    if facts.get("mlp_bias"):
        layer += 2 * inner + hidden
    if head_norms:
        layer += 2 * head_dim
    embedding = facts["vocab_size"] * hidden
    head = 0 if facts.get("tie_word_embeddings") else embedding
    return embedding + facts["num_hidden_layers"] * layer + hidden + head


def _gpt2(facts: Facts) -> int:
    """Token and position embeddings, layers with biases and two LayerNorms, a final LayerNorm; the head is tied."""
    hidden = facts["n_embd"]
    inner = facts.get("n_inner") or 4 * hidden
    attention = 4 * hidden * hidden + 4 * hidden
    mlp = 2 * hidden * inner + inner + hidden
    embeddings = (facts["vocab_size"] + facts["n_positions"]) * hidden
    head = 0 if facts.get("tie_word_embeddings", True) else facts["vocab_size"] * hidden
    return embeddings + facts["n_layer"] * (attention + mlp + 4 * hidden) + 2 * hidden + head


FAMILIES: dict[str, Callable[[Facts], int]] = {
    "llama": _llama,
    "mistral": _llama,
    "qwen3": lambda facts: _llama(facts, head_norms=True),
    "gemma3_text": lambda facts: _llama(facts, head_norms=True, norms_per_layer=4),
    "gpt2": _gpt2,
}
