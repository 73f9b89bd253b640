"""What a step holds for activations and the loss, in bytes, from the architecture alone.

The backward pass of each layer needs what its forward saved. The formulas count it operation by operation, as
transformers' eager modules save it, and are equal to a trace of the model (`distft plan exact=true`) for the families
in distft.plan.memory; another architecture is counted like Llama. Fused kernels and torch.compile save less.

Activation checkpointing: `full` keeps the input of a layer, `selective` the results of matrix products and attention
(distft.models.build); one layer at a time is then computed again, and whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distft.plan.memory import FAMILIES, FP32_BYTES

CHUNK_BYTES, CHUNK_BYTES_OF_ACCELERATOR, TILE = 64 * 2**20, 2**30, 256  # as in distft.losses.cross_entropy


@dataclass(frozen=True)
class Batch:
    """A forward: its tokens, and how they are computed."""

    tokens: int
    compute_bytes: int  # 4 in fp32, 2 in bf16
    recomputed: str  # train.activation_checkpointing
    documents: int = 1
    rank: int | None = None  # of adapters on all linear layers; None: the model itself is trained
    is_accelerator: bool = True

    @property
    def copies_attention(self) -> bool:
        """Whether attention runs document by document, so that its outputs are copied into one tensor."""
        return self.documents > 1 and not self.is_accelerator


@dataclass(frozen=True)
class Widths:
    """The widths of a layer, in numbers per token."""

    hidden: int
    queries: int
    keys: int  # and values
    inner: int
    heads: int
    layers: int
    vocabulary: int
    kind: str  # model_type
    drops: bool = False  # dropout on attention weights

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Widths":
        """Reads config.json; ValueError where it does not name hidden size and layers."""
        hidden = facts.get("hidden_size") or facts.get("n_embd") or facts.get("dim")
        layers = facts.get("num_hidden_layers") or facts.get("n_layer") or facts.get("n_layers")
        if not hidden or not layers:
            raise ValueError(f"{facts.get('model_type')} does not name its hidden size and layers")
        heads = facts.get("num_attention_heads") or facts.get("n_head") or facts.get("n_heads") or 1
        head_size = facts.get("head_dim") or hidden // heads
        inner = facts.get("intermediate_size") or facts.get("n_inner") or facts.get("hidden_dim") or 4 * hidden
        return cls(
            hidden=hidden,
            queries=heads * head_size,
            keys=(facts.get("num_key_value_heads") or heads) * head_size,
            inner=inner,
            heads=heads,
            layers=layers,
            vocabulary=facts.get("vocab_size") or 0,
            kind=str(facts.get("model_type")),
            drops=bool(facts.get("attn_pdrop", 0.1 if facts.get("model_type") == "gpt2" else 0)),
        )


def layer_bytes(widths: Widths, batch: Batch, recomputed: str | None = None) -> float:
    """Returns what one layer keeps of one token. recomputed: in place of the batch's."""
    recomputed = batch.recomputed if recomputed is None else recomputed
    number, is_gpt2 = batch.compute_bytes, widths.kind == "gpt2"
    if recomputed == "full":
        return number * widths.hidden
    log_sum = FP32_BYTES * widths.heads  # of attention's softmax
    adapters = number * (4 if is_gpt2 else 7) * (batch.rank or 0)  # their inner results
    projected = widths.queries + 2 * widths.keys
    if recomputed == "selective":
        inner = widths.inner if is_gpt2 else 2 * widths.inner
        return number * (3 * widths.hidden + projected + widths.queries + inner) + log_sum + adapters
    copies = widths.queries if batch.copies_attention else 0
    attention = number * (projected + widths.queries + copies) + log_sum
    if widths.drops and not batch.is_accelerator:  # whose kernel for that keeps the weights of attention
        attention += widths.heads * (batch.tokens / batch.documents) * (8 + 2 * number) + 10 * widths.hidden
    if is_gpt2:  # LayerNorm keeps its input; the tanh form of GELU keeps five results
        return 4 * number * widths.hidden + attention + 5 * number * widths.inner + adapters
    return _norms(widths, batch) + attention + 4 * number * widths.inner + adapters


def _norms(widths: Widths, batch: Batch) -> float:
    """Returns what the RMS norms of a layer keep: the input in fp32, for the weight's gradient the result before it,
    and the output where a linear layer reads it."""
    number, is_trained = batch.compute_bytes, batch.rank is None
    family = FAMILIES.get(widths.kind)
    per_layer, of_heads = (family.norms, family.head_norms) if family else (2, False)
    heads = widths.queries + widths.keys if of_heads else 0
    scaled = FP32_BYTES if widths.kind == "gemma3_text" else number  # Gemma multiplies in fp32
    kept = FP32_BYTES + scaled * is_trained
    return kept * (per_layer * widths.hidden + heads) + 2 * number * widths.hidden


def activation_bytes(facts: Mapping[str, Any], batch: Batch) -> int:
    """Returns the peak of a forward and backward without loss: what all layers keep, the layer that is computed again,
    the last norm, and the hidden states that the loss reads, with their gradient. facts: of config.json."""
    widths = Widths.of(facts)
    kept = widths.layers * layer_bytes(widths, batch)
    if batch.recomputed != "none":
        kept += max(0.0, layer_bytes(widths, batch, "none") - (batch.recomputed == "selective") * kept / widths.layers)
    norm = FP32_BYTES + 2 * batch.compute_bytes
    return int(batch.tokens * (kept + (norm + 2 * batch.compute_bytes) * widths.hidden))


def loss_bytes(facts: Mapping[str, Any], batch: Batch, outputs: int | None = None) -> int:
    """Returns the peak of the chunked cross-entropy: a chunk's logits, in fp32 too, and their gradient.

    outputs: of a head that is not the vocabulary's.
    """
    if outputs is not None:
        return 3 * FP32_BYTES * outputs * batch.tokens
    vocabulary = Widths.of(facts).vocabulary
    size = CHUNK_BYTES_OF_ACCELERATOR if batch.is_accelerator else CHUNK_BYTES
    tile = TILE if batch.is_accelerator else 1
    rows = min(batch.tokens, max(1, size // (FP32_BYTES * max(1, vocabulary) * tile)) * tile)
    per_logit = FP32_BYTES if batch.compute_bytes == FP32_BYTES else FP32_BYTES + 2 * batch.compute_bytes
    return per_logit * rows * vocabulary
