"""The formulas of activations are what a trace of the model's own code counts, for every family and setting."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from distft.config import Config
from distft.data.batches import make_batch
from distft.data.shards import Row
from distft.losses import cross_entropy
from distft.models.build import RECOMPUTED
from distft.paths import conf_dir
from distft.plan import activations
from distft.plan.activations import Batch, Widths, activation_bytes, layer_bytes, loss_bytes
from distft.plan.memory import FAMILIES
from distft.step_trace import Traced, trace
from distft.worker import make_objective
from tests.support.train_cases import RANDOM_MODEL, part

LENGTH, ROWS, LAYERS, RANK = 256, 2, 2, 16
DTYPES = {2: torch.bfloat16, 4: torch.float32}
MODELS = ["smollm2_135m", "qwen3_8b", "gemma3_4b", "gpt2", "mistral_7b"]
# Each setting with each other one, and each model with two of them.
SETTINGS = [
    (recomputed, size, rank) for recomputed in RECOMPUTED for size, rank in ((2, None), (4, None), (2, RANK), (4, RANK))
]
CASES = [(model, *SETTINGS[(5 * i + j) % len(SETTINGS)]) for i, model in enumerate(MODELS) for j in (0, 3, 5)]
CASES += [("smollm2_135m", *setting) for setting in SETTINGS if ("smollm2_135m", *setting) not in CASES]


def facts_of(model: str) -> dict[str, Any]:
    """Returns the real widths of a model with few layers, without dropout."""
    facts = part("model", model)["architecture"]
    layers = FAMILIES[facts["model_type"]].num_layers
    return facts | {layers: LAYERS} | dict.fromkeys(("attn_pdrop", "resid_pdrop", "embd_pdrop"), 0.0)


def traced(model: str, recomputed: str, size: int, rank: int | None) -> Traced:
    values = {
        "model": part("model", model) | {"architecture": facts_of(model), "tiny_architecture": {}},
        "tuning": part("tuning", "full") if rank is None else part("tuning", "lora") | {"rank": rank},
        "loss": part("loss", "cross_entropy"),
        "train": {"activation_checkpointing": recomputed},
    }
    objective = make_objective(Config.of(values), RANDOM_MODEL, torch.device("cpu"))
    rows = [Row(np.zeros(LENGTH, np.int32), np.ones(LENGTH, bool))] * ROWS
    return trace(objective, make_batch(rows), DTYPES[size])


@pytest.mark.slow
@pytest.mark.parametrize(("model", "recomputed", "size", "rank"), CASES)
def test_a_forward_saves_what_is_counted(model: str, recomputed: str, size: int, rank: int | None) -> None:
    found, facts = traced(model, recomputed, size, rank), facts_of(model)
    batch = Batch(ROWS * LENGTH, size, recomputed, ROWS, rank, is_accelerator=False)
    layers = LAYERS * batch.tokens * layer_bytes(Widths.of(facts), batch)
    outside = batch.tokens * (4 + 3 * size) * facts.get("hidden_size", facts.get("n_embd"))  # last norm, embeddings
    assert layers <= 1.001 * found["saved"] and found["saved"] <= layers + outside
    assert activation_bytes(facts, batch) >= found["saved"]


def test_every_family_has_a_case() -> None:
    assert {part("model", model)["architecture"]["model_type"] for model in MODELS} == set(FAMILIES)


def test_the_chunks_of_the_loss_are_those_that_are_counted() -> None:
    names = ("CHUNK_BYTES", "CHUNK_BYTES_OF_ACCELERATOR", "TILE")
    assert [getattr(activations, name) for name in names] == [getattr(cross_entropy, name) for name in names]
    facts = {"hidden_size": 64, "num_hidden_layers": 1, "vocab_size": 49152}
    rows = cross_entropy.rows_of_chunk(49152, torch.device("cuda"))
    assert loss_bytes(facts, Batch(10**6, 2, "none")) == 8 * rows * 49152
    assert loss_bytes(facts, Batch(10, 2, "none")) == 8 * 10 * 49152, "a batch smaller than a chunk"


def test_recomputing_keeps_less_of_each_token() -> None:
    facts = yaml.safe_load((Path(conf_dir()) / "model/llama3_8b.yaml").read_text())["architecture"]
    none, selective, full = (activation_bytes(facts, Batch(1, 2, word)) for word in RECOMPUTED)
    assert none > selective > full
    assert 6e6 < none < 7e6, "51 x hidden bytes and a layer: 6.4 MB a token of an 8B model in bf16"
    with pytest.raises(ValueError, match="does not name its hidden size"):
        activation_bytes({"model_type": "odd"}, Batch(1, 2, "none"))


@pytest.mark.slow
def test_selective_checkpointing_of_adapters_keeps_less() -> None:
    """Results of an adapter's second matrix would take as much as those of the frozen layers."""
    saved = {word: traced("smollm2_135m", word, 2, RANK)["saved"] for word in RECOMPUTED}
    assert saved["selective"] < 0.65 * saved["none"] and saved["full"] < 0.15 * saved["none"]
