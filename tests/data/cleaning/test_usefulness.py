"""Cleaned data train a better model: a lower held-out loss than raw data at the same number of steps."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from distft.config import Config
from distft.data.shards import Row, Rows
from distft.data.stage import prepare_data

ROWS, HELD_OUT, NOISE, SEEDS = 300, 60, 0.2, 10
STEPS, BATCH, WIDTH = 120, 8, 128
ADJECTIVES, NOUNS = "old new red small quiet".split(), "boat house garden letter window road".split()
VERBS = "sees finds keeps follows paints".split()

RULES = ("empty", "quality", "boilerplate", "refusals", "exact_duplicates", "encoding")


def good(choose: random.Random) -> dict[str, str]:
    subject, thing = choose.sample(NOUNS, 2)
    adjective, verb = choose.choice(ADJECTIVES), choose.choice(VERBS)
    return {
        "prompt": f"{subject} {verb} {thing} {choose.randrange(10**6)}",
        "completion": f"The {adjective} {subject} {verb} the {thing}.",
    }


def noise(choose: random.Random) -> dict[str, str]:
    """Returns a row as crawls and careless generation give them."""
    prompt = good(choose)["prompt"]
    return {
        "prompt": prompt,
        "completion": choose.choice(
            [
                "I'm sorry, but I can't help with that request today.",
                "As an AI language model, I do not have feelings.",
                "We use cookies to improve your visit. All rights reserved.",
                f"{choose.choice(NOUNS)} again and again and again " * 6,
                "\u00c3\u00a9\u00c3\u00a8 caf\u00c3\u00a9 d\u00c3\u00a9j\u00c3\u00a0 vu na\u00c3\u00afve",
                "...",
                "N/A",
            ]
        ),
    }


def held_out_loss(train: Rows, held_out: Rows, seed: int) -> float:
    """Returns the loss per target token after STEPS steps on random rows; the model depends on the seed alone."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=512, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=WIDTH,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    order = np.random.default_rng(seed)
    for _ in range(STEPS):
        loss = _loss(model, [train[int(i)] for i in order.integers(len(train), size=BATCH)])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        return float(_loss(model, list(held_out)))


def _loss(model: LlamaForCausalLM, rows: list[Row]) -> torch.Tensor:
    ids = torch.zeros(len(rows), WIDTH, dtype=torch.long)
    labels = torch.full((len(rows), WIDTH), -100)
    for i, row in enumerate(rows):
        tokens = torch.from_numpy(row.input_ids[:WIDTH].astype(np.int64))
        ids[i, : len(tokens)] = tokens
        labels[i, : len(tokens)] = torch.where(torch.from_numpy(row.trained[:WIDTH].copy()), tokens, -100)
    return model(input_ids=ids, labels=labels).loss


@pytest.mark.soak
def test_cleaned_data_train_better_in_nine_of_ten_seeds(config: Callable[..., Config], write_rows: Callable[..., Path]):
    better, losses = 0, []
    for seed in range(SEEDS):
        choose = random.Random(seed)
        rows = [noise(choose) for _ in range(round(NOISE * ROWS))]
        rows += [good(choose) for _ in range(ROWS - len(rows))]
        held = write_rows([good(choose) for _ in range(HELD_OUT)], f"held-{seed}.jsonl")
        raw = config(write_rows(rows, f"train-{seed}.jsonl"), eval=str(held))
        cleaned = raw.changed({f"clean.{name}.enabled": True for name in RULES} | {"clean.encoding.action": "drop"})
        folders = [prepare_data(each).folder for each in (raw, cleaned)]
        left_out = ROWS - len(Rows(folders[1], "train"))
        assert 0.7 * NOISE * ROWS <= left_out <= NOISE * ROWS
        losses.append([held_out_loss(Rows(folder, "train"), Rows(folder, "eval"), seed) for folder in folders])
        better += losses[-1][1] < losses[-1][0]
    assert better >= 9, losses
