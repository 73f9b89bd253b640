"""How many parameters a model has, from its files or, before these are here, from the facts of its config.json."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distft.config.nearest import nearest
from distft.models.weight_files import NO_PARAMETER, headers

Facts = Mapping[str, Any]
Layer = tuple[str, tuple[int, int]]  # the last part of a linear layer's name, its two sizes
_LAYER = re.compile(r"(?:^|\.)\d+\.(?:.*\.)?(\w+)\.weight$")  # a weight in a numbered block
_BLOCK = re.compile(r"^(.*?\.)?\d+\.")  # what the names of a numbered block's weights begin with
_HEADS = ("lm_head.weight", "embed_tokens.weight", "wte.weight")


@dataclass(frozen=True)
class Parts:
    """Where a model's parameters are."""

    total: int
    outside: int  # of the repeated blocks: embeddings, last norm, head
    block: int  # the largest
    head: int  # its matrix, or the embedding that stands for it
    tied: bool  # the head is the embedding


def count_parameters(model_dir: Path | None, facts: Facts) -> int | None:
    """Returns the parameters of the safetensors files in `model_dir`, else of the architecture; None when unknown."""
    parts = parts_of(model_dir, facts)
    return parts.total if parts else None


def parts_of(model_dir: Path | None, facts: Facts) -> Parts | None:
    """Returns the same parameters, by where in the model they lie."""
    if model_dir is not None and (shapes := _shapes(model_dir)):
        return _parts_of_shapes(shapes, tied=_read_facts(model_dir).get("tie_word_embeddings", False))
    family = FAMILIES.get(str(facts.get("model_type")))
    if family is None:
        return None
    total, outside = family.count(facts), family.count({**facts, family.num_layers: 0})
    layers, hidden = facts[family.num_layers], facts.get("hidden_size") or facts["n_embd"]
    tied = facts.get("tie_word_embeddings", family.ties)
    return Parts(total, outside, (total - outside) // max(1, layers), facts["vocab_size"] * hidden, bool(tied))


def _parts_of_shapes(shapes: Mapping[str, Sequence[int]], *, tied: bool) -> Parts:
    left_out = ("lm_head.weight",) if tied and len(shapes) > 1 else ()
    sizes = {name: math.prod(shape) for name, shape in shapes.items() if not name.endswith((*NO_PARAMETER, *left_out))}
    blocks: Counter[str] = Counter()
    for name, size in sizes.items():
        if match := _BLOCK.match(name):
            blocks[match[0]] += size
    outside = {name: size for name, size in sizes.items() if not _BLOCK.match(name)}
    heads = [size for end in _HEADS for name, size in outside.items() if name.endswith(end)]
    head = heads[0] if heads else max((size for name, size in outside.items() if len(shapes[name]) == 2), default=0)
    total = sum(sizes.values())
    is_tied = tied or not any(name.endswith("lm_head.weight") for name in sizes)
    return Parts(total, sum(outside.values()), max(blocks.values(), default=0), head, is_tied)


def count_adapters(model_dir: Path | None, facts: Facts, rank: int, targets: Sequence[str] | str) -> int | None:
    """Returns the parameters of adapters of `rank` beside the linear layers named by `targets`, or all-linear.

    None when the architecture is unknown; ValueError when it has no layer of such a name.
    """
    layers = _linear_layers(model_dir, facts)
    if not layers:
        return None
    names = sorted({name for name, _ in layers})
    for target in [] if isinstance(targets, str) else targets:
        if target not in names:
            meant = nearest(str(target), names) or ", ".join(names)
            raise ValueError(f"tuning.target_modules: {target} is no linear layer of this model. Try: {meant}")
    return sum(rank * sum(shape) for name, shape in layers if isinstance(targets, str) or name in targets)


def _linear_layers(model_dir: Path | None, facts: Facts) -> list[Layer]:
    """Returns every linear layer of the repeated blocks: the last part of its name, and its two sizes."""
    if model_dir is not None and (shapes := _shapes(model_dir)):
        inside = {name: _LAYER.search(name) for name, shape in shapes.items() if len(shape) == 2}
        return [(match[1], (shapes[name][0], shapes[name][1])) for name, match in inside.items() if match]
    family = FAMILIES.get(str(facts.get("model_type")))
    return family.linear(facts) * facts[family.num_layers] if family else []


def _shapes(model_dir: Path) -> dict[str, list[int]]:
    return {name: entry["shape"] for name, entry in headers(model_dir).items()}


def _read_facts(model_dir: Path) -> Facts:
    path = model_dir / "config.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _llama_linear(facts: Facts) -> list[Layer]:
    """The linear layers of a block with gated MLP and grouped attention."""
    hidden, inner, heads = facts["hidden_size"], facts["intermediate_size"], facts["num_attention_heads"]
    head_dim = facts.get("head_dim") or hidden // heads
    queries, keys = heads * head_dim, (facts.get("num_key_value_heads") or heads) * head_dim
    attention = [("q_proj", (queries, hidden)), ("k_proj", (keys, hidden)), ("v_proj", (keys, hidden))]
    mlp = [("gate_proj", (inner, hidden)), ("up_proj", (inner, hidden)), ("down_proj", (hidden, inner))]
    return [*attention, ("o_proj", (hidden, queries)), *mlp]


def _llama(facts: Facts, *, head_norms: bool = False, norms_per_layer: int = 2) -> int:
    """Embedding, blocks of linear layers and RMS norms, a final norm, and the head unless tied."""
    hidden, inner, heads = facts["hidden_size"], facts["intermediate_size"], facts["num_attention_heads"]
    linear = dict(_llama_linear(facts))
    layer = sum(map(math.prod, linear.values())) + norms_per_layer * hidden
    if facts.get("attention_bias"):
        layer += sum(linear[name][0] for name in ("q_proj", "k_proj", "v_proj", "o_proj"))
    if facts.get("mlp_bias"):
        layer += 2 * inner + hidden
    if head_norms:
        layer += 2 * (facts.get("head_dim") or hidden // heads)
    embedding = facts["vocab_size"] * hidden
    head = 0 if facts.get("tie_word_embeddings") else embedding
    return embedding + facts["num_hidden_layers"] * layer + hidden + head


def _gpt2_linear(facts: Facts) -> list[Layer]:
    """The linear layers of a block; two have one name, and weights lie transposed."""
    hidden = facts["n_embd"]
    inner = facts.get("n_inner") or 4 * hidden
    attention = [("c_attn", (hidden, 3 * hidden)), ("c_proj", (hidden, hidden))]
    return [*attention, ("c_fc", (hidden, inner)), ("c_proj", (inner, hidden))]


def _gpt2(facts: Facts) -> int:
    """Token and position embeddings, layers with biases and two LayerNorms, a final LayerNorm; the head is tied."""
    hidden, linear = facts["n_embd"], _gpt2_linear(facts)
    layer = sum(math.prod(shape) + shape[1] for _, shape in linear) + 4 * hidden
    embeddings = (facts["vocab_size"] + facts["n_positions"]) * hidden
    head = 0 if facts.get("tie_word_embeddings", True) else facts["vocab_size"] * hidden
    return embeddings + facts["n_layer"] * layer + 2 * hidden + head


@dataclass(frozen=True)
class Family:
    """The closed forms of an architecture: its parameters, a block's linear layers, the fact that counts blocks."""

    count: Callable[[Facts], int]
    linear: Callable[[Facts], list[Layer]] = _llama_linear
    num_layers: str = "num_hidden_layers"
    ties: bool = False  # where its facts do not say it


FAMILIES = {
    "llama": Family(_llama),
    "mistral": Family(_llama),
    "qwen3": Family(lambda facts: _llama(facts, head_norms=True)),
    "gemma3_text": Family(lambda facts: _llama(facts, head_norms=True, norms_per_layer=4)),
    "gpt2": Family(_gpt2, _gpt2_linear, "n_layer", ties=True),
}
