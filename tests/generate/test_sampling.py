"""A sampled token depends on seed, prompt and position alone, and follows the model's distribution."""

from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from transformers import LlamaConfig, LlamaForCausalLM

from distft.generate.sampling import Chooser, Sampling, uniform

SCORES = torch.tensor([2.0, 1.0, 0.0, -1.0, 3.0, -5.0])


def drawn(count: int, **settings: Any) -> torch.Tensor:
    """Returns how often each token of SCORES was drawn, by prompts 0 to `count`."""
    choose = Chooser(Sampling(**settings), {}, [])
    tokens = choose(SCORES.expand(count, -1).clone(), [[]] * count, [(i, 0) for i in range(count)])
    return torch.bincount(torch.tensor(tokens), minlength=len(SCORES))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_follow_the_distribution(temperature: float) -> None:
    counts = drawn(20_000, temperature=temperature)
    expected = (SCORES.double() / temperature).softmax(-1) * 20_000
    common = expected > 5
    assert chisquare(counts[common], expected[common] / expected[common].sum() * counts[common].sum()).pvalue > 1e-3


def test_top_k_and_top_p_leave_the_likeliest() -> None:
    assert drawn(2000, temperature=1.0, top_k=2).nonzero().flatten().tolist() == [0, 4]
    assert drawn(2000, temperature=1.0, top_p=0.6).nonzero().flatten().tolist() == [4]


def test_a_row_draws_the_same_in_any_batch() -> None:
    choose = Chooser(Sampling(temperature=1.0, seed=5), {}, [])
    rows = [(prompt, position) for prompt in range(20) for position in range(20)]
    together = choose(SCORES.expand(len(rows), -1).clone(), [[]] * len(rows), rows)
    assert together == [choose(SCORES[None].clone(), [[]], [row])[0] for row in rows]


def test_the_draws_are_uniform_and_differ() -> None:
    numbers = [uniform(seed, prompt, position) for seed in (0, 1) for prompt in range(60) for position in range(60)]
    assert len(set(numbers)) == len(numbers) and min(numbers) >= 0 and max(numbers) < 1
    assert chisquare(torch.histc(torch.tensor(numbers), 20, 0, 1)).pvalue > 1e-3


def test_penalties_are_those_of_transformers() -> None:
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    ).eval()
    settings: dict[str, Any] = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "suppress_tokens": [3, 4]}
    settings["bad_words_ids"] = [[9], [10, 11]]
    prompt = [5, 6, 7, 5]
    ids = torch.tensor([prompt])
    mask: Any = torch.ones_like(ids)
    expected = model.generate(
        ids, attention_mask=mask, do_sample=False, max_new_tokens=20, eos_token_id=None, pad_token_id=0, **settings
    )[0, 4:].tolist()
    choose, tokens = Chooser(Sampling(), settings, []), list[int]()
    for position in range(20):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + tokens])).logits[:, -1]
        tokens += choose(logits, [prompt + tokens], [(0, position)])
    assert tokens == expected
    plain = model.generate(
        ids, attention_mask=mask, do_sample=False, max_new_tokens=20, eos_token_id=None, pad_token_id=0
    )
    assert plain[0, 4:].tolist() != expected
