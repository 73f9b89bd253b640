"""The closed form counts what a real forward and backward executes, less what causal attention leaves out."""

import pytest

FACTS = {
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


@pytest.mark.slow
def test_useful_flops_are_those_that_torch_counts():
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    from benchmarks.peers.flops import useful_flops

    tokens, targets = 32, 5
    facts = {key: value for key, value in FACTS.items() if key != "model_type"}
    config = AutoConfig.for_model("llama", **facts, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config)
    counter = FlopCounterMode(display=False)
    with counter:
        hidden = model.model(torch.arange(tokens)[None]).last_hidden_state[0, -targets:]
        model.lm_head(hidden).logsumexp(-1).sum().backward()
    not_causal = 4 * (tokens**2 - tokens * (tokens + 1) // 2) * FACTS["hidden_size"] * FACTS["num_hidden_layers"]
    rotary = counter.get_flop_counts()["Global"].get(torch.ops.aten.bmm, 0) - attention_flops(tokens)
    assert counter.get_total_flops() - rotary == useful_flops(FACTS, tokens, targets) + 3 * not_causal
    assert 0 <= rotary < 1e-3 * counter.get_total_flops()  # angles are an outer product


def attention_flops(tokens: int) -> int:
    """Returns what torch counts as batched products: scores and their sums, of the whole square, three times."""
    return 3 * 4 * tokens**2 * FACTS["hidden_size"] * FACTS["num_hidden_layers"]


@pytest.mark.slow
def test_flops_match_those_in_the_mfu_of_distft():
    import numpy as np

    from benchmarks.peers.flops import useful_flops
    from distft.models.build import architecture, skeleton
    from distft.models.flops import Flops

    own = Flops.of(skeleton(architecture(None, FACTS), "sdpa")).of_rows(np.array([32, 500]), np.array([5, 7]))
    assert [useful_flops(FACTS, 32, 5), useful_flops(FACTS, 500, 7)] == pytest.approx((3 * own).tolist(), rel=1e-12)
