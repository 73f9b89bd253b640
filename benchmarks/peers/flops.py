"""Useful FLOPs of training a decoder on documents, in closed form: what would be left without any waste.

Matrix products only, forward once and backward twice; attention inside each document and to the left only, the
vocabulary projected at trained positions alone. Whoever pads, projects more or computes twice does not get more.
"""

from collections.abc import Mapping
from typing import Any


def useful_flops(architecture: Mapping[str, Any], tokens: int, targets: int) -> float:
    """Returns the FLOPs of one document.

    architecture: of a Llama-like decoder with a gated MLP, as in its config.json. targets: tokens with a loss.
    """
    hidden, layers = architecture["hidden_size"], architecture["num_hidden_layers"]
    heads = architecture["num_attention_heads"]
    head_size = architecture.get("head_dim") or hidden // heads
    key_heads = architecture.get("num_key_value_heads") or heads
    attention = 2 * hidden * heads * head_size + 2 * hidden * key_heads * head_size  # q and o, k and v
    mlp = 3 * hidden * architecture["intermediate_size"]
    pairs = tokens * (tokens + 1) // 2
    forward = 2 * layers * (tokens * (attention + mlp) + 2 * pairs * heads * head_size)
    return 3.0 * (forward + 2 * targets * hidden * architecture["vocab_size"])
