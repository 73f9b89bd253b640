"""Bytes per process of the persistent state, by strategy, and the peak that a step adds to it for communication.

State: weights, gradients and optimizer state. In addition: gathered weights, buckets, and gradients before they are
reduced. Activations and the loss are counted in distft.plan.activations. Frozen parameters have no gradients, optimizer
state or fp32 master weights.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from distft.config.errors import nearest
from distft.config.parts import Optimizer, Strategy
from distft.run import read_yaml
from distft.tensors.weight_files import NO_PARAMETER, headers

Architecture = Mapping[str, Any]  # config.json of a model: its keys depend on the family
Layer = tuple[str, tuple[int, int]]  # last part of a linear layer's name, its two dimensions
_LAYER = re.compile(r"(?:^|\.)\d+\.(?:.*\.)?(\w+)\.weight$")  # a weight in a numbered block
_BLOCK = re.compile(r"^(.*?\.)?\d+\.")  # prefix of the weights of a numbered block
_HEADS = ("lm_head.weight", "embed_tokens.weight", "wte.weight")


@dataclass(frozen=True)
class Parts:
    """The parameters of a model by location."""

    total: int
    outside: int  # the repeated blocks: embeddings, last norm, head
    block: int  # the largest
    head: int  # its matrix, or the tied embedding
    tied: bool  # the head is the embedding


def count_parameters(model_dir: Path | None, facts: Architecture) -> int | None:
    """Returns the parameters of the safetensors files in `model_dir`, else of the architecture; None when unknown."""
    parts = parts_of(model_dir, facts)
    return parts.total if parts else None


def parts_of(model_dir: Path | None, facts: Architecture) -> Parts | None:
    """Returns the parameters by location in the model; None when unknown."""
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


def count_adapters(model_dir: Path | None, facts: Architecture, rank: int, targets: Sequence[str] | str) -> int | None:
    """Returns the parameters of LoRA adapters of `rank` on the linear layers in `targets`, or all-linear.

    None when the architecture is unknown; ValueError when it has no layer of such a name.
    """
    layers = linear_layers(model_dir, facts)
    if not layers:
        return None
    names = sorted({name for name, _ in layers})
    for target in [] if isinstance(targets, str) else targets:
        if target not in names:
            meant = nearest(str(target), names) or ", ".join(names)
            raise ValueError(f"tuning.target_modules: {target} is not a linear layer of this model. Try: {meant}")
    return sum(rank * sum(shape) for name, shape in layers if isinstance(targets, str) or name in targets)


def linear_layers(model_dir: Path | None, facts: Architecture) -> list[Layer]:
    """Returns every linear layer of the repeated blocks: the last part of its name, and its two dimensions."""
    if model_dir is not None and (shapes := _shapes(model_dir)):
        inside = {name: _LAYER.search(name) for name, shape in shapes.items() if len(shape) == 2}
        return [(match[1], (shapes[name][0], shapes[name][1])) for name, match in inside.items() if match]
    family = FAMILIES.get(str(facts.get("model_type")))
    return family.linear(facts) * facts[family.num_layers] if family else []


def in_four_bits(parts: Parts, layers: Sequence[Layer]) -> tuple[Parts, int, int]:
    """Returns the parameters that are not held in 4 bits, how many are, and those of the largest such layer.

    layers: every linear layer of the repeated blocks.
    """
    sizes = [math.prod(shape) for _, shape in layers]
    blocks = round((parts.total - parts.outside) / parts.block) if parts.block else 1
    rest = replace(parts, total=parts.total - sum(sizes), block=parts.block - ceil(sum(sizes) / blocks))
    return rest, sum(sizes), max(sizes, default=0)


def _shapes(model_dir: Path) -> dict[str, list[int]]:
    return {name: entry["shape"] for name, entry in headers(model_dir).items()}


def _read_facts(model_dir: Path) -> Architecture:
    path = model_dir / "config.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _llama_linear(facts: Architecture) -> list[Layer]:
    """The linear layers of a block with gated MLP and grouped attention."""
    hidden, inner, heads = facts["hidden_size"], facts["intermediate_size"], facts["num_attention_heads"]
    head_dim = facts.get("head_dim") or hidden // heads
    queries, keys = heads * head_dim, (facts.get("num_key_value_heads") or heads) * head_dim
    attention = [("q_proj", (queries, hidden)), ("k_proj", (keys, hidden)), ("v_proj", (keys, hidden))]
    mlp = [("gate_proj", (inner, hidden)), ("up_proj", (inner, hidden)), ("down_proj", (hidden, inner))]
    return [*attention, ("o_proj", (hidden, queries)), *mlp]


def _llama(facts: Architecture, *, head_norms: bool = False, norms_per_layer: int = 2) -> int:
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


def _gpt2_linear(facts: Architecture) -> list[Layer]:
    """The linear layers of a block; two share a name, and weights are transposed."""
    hidden = facts["n_embd"]
    inner = facts.get("n_inner") or 4 * hidden
    attention = [("c_attn", (hidden, 3 * hidden)), ("c_proj", (hidden, hidden))]
    return [*attention, ("c_fc", (hidden, inner)), ("c_proj", (inner, hidden))]


def _gpt2(facts: Architecture) -> int:
    """Token and position embeddings, layers with biases and two LayerNorms, a final LayerNorm; the head is tied."""
    hidden, linear = facts["n_embd"], _gpt2_linear(facts)
    layer = sum(math.prod(shape) + shape[1] for _, shape in linear) + 4 * hidden
    embeddings = (facts["vocab_size"] + facts["n_positions"]) * hidden
    head = 0 if facts.get("tie_word_embeddings", True) else facts["vocab_size"] * hidden
    return embeddings + facts["n_layer"] * layer + 2 * hidden + head


@dataclass(frozen=True)
class Family:
    """Formulas of an architecture: its parameters, the linear layers of a block, the key with the number of blocks."""

    count: Callable[[Architecture], int]
    linear: Callable[[Architecture], list[Layer]] = _llama_linear
    num_layers: str = "num_hidden_layers"
    ties: bool = False  # default if its config.json does not say
    norms: int = 2  # of a layer
    head_norms: bool = False  # on queries and keys


FAMILIES = {
    "llama": Family(_llama),
    "mistral": Family(_llama),
    "qwen3": Family(partial(_llama, head_norms=True), head_norms=True),
    "gemma3_text": Family(partial(_llama, head_norms=True, norms_per_layer=4), norms=4, head_norms=True),
    "gpt2": Family(_gpt2, _gpt2_linear, "n_layer", ties=True),
}


FP32_BYTES = 4
FOUR_BIT_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # a weight: NF4, its block's scale, and that scale's own
_MOMENTS = {
    "AdamW": 2,
    "Adam": 2,
    "RAdam": 2,
    "NAdam": 2,
    "Adamax": 2,
    "Adadelta": 2,
    "Adagrad": 1,
    "ASGD": 1,
    "Lion": 1,
}


def optimizer_bytes(optimizer: Optimizer) -> int | None:
    """Returns the bytes of optimizer state per parameter, all fp32; None for an optimizer this table does not know."""
    name, further = str(optimizer.target).rpartition(".")[2], optimizer.model_extra or {}
    if name == "SGD":
        moments = 1 if optimizer.momentum else 0
    elif name == "RMSprop":
        moments = 1 + bool(optimizer.momentum) + bool(further.get("centered"))
    elif name in _MOMENTS:
        moments = _MOMENTS[name] + bool(further.get("amsgrad"))
    else:
        return None
    return FP32_BYTES * moments


@dataclass(frozen=True)
class Sizes:
    """What the state of a run consists of, and over how many processes it is spread."""

    parameters: int
    trained: int  # parameters that are not frozen
    state_bytes: int  # of the optimizer, per trained parameter
    compute_bytes: int  # 4 in fp32, 2 in bf16
    world: int
    node: int  # processes of a node
    parts: Parts | None = None  # of the model, without adapters
    quantized: int = 0  # frozen weights in 4 bits; neither among `parameters` nor in `parts`
    dequantized: int = 0  # weights of the largest layer in 4 bits


def memory_of(strategy: Strategy, sizes: Sizes) -> dict[str, int] | None:
    """Returns bytes per process: parameters, gradients, optimizer, total of these, and the part of it in host memory;
    `gathered` in addition to the total, where the architecture is known. None for a strategy that is unknown here."""
    if "layout" in strategy.model_fields_set:
        counted = _memory_of_fsdp(strategy, sizes)
    elif strategy.stage in (1, 2, 3):
        counted = _memory_of_zero(strategy, sizes)
    else:
        return None
    for part in ("parameters", "total"):  # each process holds all that are in 4 bits
        counted[part] += round(FOUR_BIT_BYTES * sizes.quantized)
    if "gathered" in counted:  # a product reads one weight in the compute dtype
        counted["gathered"] += sizes.compute_bytes * sizes.dequantized
    return counted


def _memory_of_fsdp(strategy: Strategy, sizes: Sizes) -> dict[str, int]:
    shards = {"ddp": 1, "fsdp": sizes.world, "hsdp": strategy.shard_size or sizes.node}[strategy.layout]
    share, frozen = ceil(sizes.trained / shards), ceil((sizes.parameters - sizes.trained) / shards)
    parameters = FP32_BYTES * share + sizes.compute_bytes * frozen
    counted = _sum(parameters, FP32_BYTES * share, sizes.state_bytes * share)
    if sizes.parts is not None:
        adapters = sizes.trained if sizes.trained < sizes.parameters else None
        is_sharded = shards > 1
        counted["gathered"] = gathered_bytes(sizes.parts, sizes.compute_bytes, is_sharded=is_sharded, adapters=adapters)
    return counted


def _memory_of_zero(strategy: Strategy, sizes: Sizes) -> dict[str, int]:
    stage, share = strategy.stage, ceil(sizes.trained / sizes.world)
    held = ceil(sizes.parameters / sizes.world) if stage == 3 else sizes.parameters
    working = sizes.compute_bytes * held  # in addition to fp32 master weights
    gradients = FP32_BYTES * share
    if stage == 1:  # full-size while accumulating; in bf16 plus this process's share while reducing
        gradients = FP32_BYTES * sizes.trained + (gradients if sizes.compute_bytes < FP32_BYTES else 0)
    if strategy.offload:
        gradients += FP32_BYTES * share if stage == 3 else 0  # the host copy
    on_device = working + (gradients if stage < 3 else 0)
    counted = _sum(working + FP32_BYTES * share, gradients, sizes.state_bytes * share)
    if strategy.offload:
        counted["host"] = counted["total"] if stage == 3 else counted["total"] - on_device
    if sizes.parts is not None:
        counted["gathered"] = _gathered_by_zero(strategy, sizes, sizes.parts)
    return counted


MIN_BUCKET, MAX_BUCKET, LIVE_BUCKETS = 500_000, 200_000_000, 4  # parameters, as in distft.strategies.zero
_IN_FLIGHT = 3  # buckets at stage 3, in addition to those that may live: prefetched, received, and in use


def _gathered_by_zero(strategy: Strategy, sizes: Sizes, parts: Parts) -> int:
    """Returns an upper estimate of the peak that DeepSpeed adds to state and gradients in a step, from measurements.

    Stages 1 and 2: gradients of embedding and head before their reduction, and a bucket in fp32. Stage 3: gathered
    weights, and the head's gradient. In the update the gradients of this process a second time: at stage 3, and in
    fp32 at stage 2, which flattens them while it holds the buffer that received them.
    """
    bucket = strategy.bucket_parameters or min(max(sizes.parameters // 16, MIN_BUCKET), MAX_BUCKET)
    is_full, of_bucket = sizes.trained == sizes.parameters, FP32_BYTES * bucket
    head, second = parts.head * is_full, FP32_BYTES * ceil(sizes.trained / sizes.world)
    if strategy.stage < 3:
        if not is_full:
            backward = min(of_bucket, FP32_BYTES * sizes.trained)
        elif parts.tied:
            backward = (4 * FP32_BYTES if sizes.compute_bytes == FP32_BYTES else 2 * sizes.compute_bytes) * head
        else:
            backward = sizes.compute_bytes * head + of_bucket
        return max(backward, second if strategy.stage == 2 and sizes.compute_bytes == FP32_BYTES else 0)
    of_head = (FP32_BYTES + sizes.compute_bytes * (parts.tied or sizes.compute_bytes < FP32_BYTES)) * head
    weights = min(parts.total, (LIVE_BUCKETS + _IN_FLIGHT) * bucket + parts.outside)
    return max(sizes.compute_bytes * weights + of_head, second + of_bucket)


def gathered_bytes(parts: Parts, compute_bytes: int, *, is_sharded: bool, adapters: int | None) -> int:
    """Returns the peak that FSDP2 adds to state and gradients in a step of three or more micro-batches: weights in the
    compute dtype, and gradients of parameters outside of the blocks.

    Parameters outside of the blocks are the root group, gathered through forward and backward. Blocks are gathered
    one at a time, with prefetch; with one shard nothing is freed, and each trained weight has a compute-dtype copy.
    adapters: parameters of adapters; None: the model itself is trained.
    """
    root, block, head = compute_bytes * parts.outside, compute_bytes * parts.block, FP32_BYTES * parts.head
    embedding = compute_bytes * parts.head if parts.tied else 0
    if not is_sharded:
        if adapters is not None:
            return compute_bytes * adapters
        copies = compute_bytes * parts.total
        return max(copies + head, root + 3 * embedding)  # a tied weight's two gradients, and their sum
    if adapters is not None:
        return max(2 * root, root + 3 * block)  # as received, and as laid out
    reduced = FP32_BYTES * parts.outside  # the root's gradients in flight, kept until the next ones
    of_blocks = root + compute_bytes * parts.head + 3 * block + 2 * FP32_BYTES * parts.block  # of two blocks, in flight
    return max(root + reduced + max(head, root) + block, root + 3 * embedding, of_blocks)


def _sum(parameters: int, gradients: int, optimizer: int) -> dict[str, int]:
    total = parameters + gradients + optimizer
    return {"parameters": parameters, "gradients": gradients, "optimizer": optimizer, "total": total, "host": 0}


def memory_table(chosen: str, strategy: Strategy, folder: Path, sizes: Sizes) -> dict[str, dict[str, int]]:
    """Returns strategy -> bytes for the chosen one as configured and every other one in `folder` as shipped."""
    shipped = {path.stem: shipped_strategy(path) for path in sorted(folder.glob("*.yaml"))}
    table = {name: memory_of(shipped[name] if name != chosen else strategy, sizes) for name in shipped}
    return {name: counted for name, counted in table.items() if counted is not None}


def shipped_strategy(file: Path) -> Strategy:
    """Returns the strategy of a YAML file in conf/strategy."""
    return Strategy.model_validate(read_yaml(file))
