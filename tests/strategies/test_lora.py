"""Adapters train alike under every strategy, like peft's own in one process, and nothing else is saved.

The bars are those of test_parity.py. B starts as zero, so some gradients of A nearly cancel: one of -3.5e-9 is -1.3e-9
in peft's own fp32 loop, next to others of 1e-4. Below its eps of 1e-8 AdamW would make 8e-5 of a weight of that, so eps
is 1e-6 here, on both sides.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from distft.checkpoint.load import Checkpoint
from distft.models.adapters import fresh_adapter
from distft.models.init import FreshWeights
from tests.support.reference import dense, train_dense
from tests.support.train_cases import tiny_model
from tests.support.trained import FAINT_ADAMW, LORA, LORA_KEYS, MAIN, STRATEGIES, Key, checkpoint_of, run_cases

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def peft_trained(rows: Path) -> dict[str, dict[str, Any]]:
    """What peft does with the same new adapters, its weights under distft's names, by model."""
    return {model: train_with_peft(model.removesuffix("+lora"), rows) for model in {key[1] for key in LORA_KEYS}}


def train_with_peft(name: str, rows: Path) -> dict[str, Any]:
    settings = LoraConfig(
        r=LORA["rank"], lora_alpha=LORA["alpha"], target_modules="all-linear", fan_in_fan_out=name == "gpt2"
    )
    model = get_peft_model(dense(name, 0), settings)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(fresh_adapter(0, own_name(key), tuple(parameter.shape)))
    answer = train_dense(model, rows, 5, **FAINT_ADAMW)
    return answer | {"weights": {own_name(key): weight for key, weight in answer["weights"].items()}}


def own_name(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".default", "")


@pytest.mark.parametrize("key", LORA_KEYS, ids=lambda key: "-".join(map(str, key)))
def test_two_processes_train_adapters_like_peft_on_one(key: Key, trained: Any, peft_trained: Any) -> None:
    answer, reference = trained[key], peft_trained[key[1]]
    for mine, expected in zip(answer["steps"], reference["steps"], strict=True):
        assert mine == pytest.approx(expected, rel=5e-6)
    checkpoint = Checkpoint(checkpoint_of(answer))
    assert sorted(checkpoint.names) == sorted(reference["weights"]), "nothing but the adapters is saved"
    for name, weight in reference["weights"].items():
        mine = checkpoint.read(name, tuple(weight.shape), 0, weight.numel()).view(weight.shape)
        torch.testing.assert_close(
            mine.double(), weight, rtol=0, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.fixture(scope="module")
def in_bf16(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Adapters trained in bf16 by each strategy on two processes, and what they hold of the base model."""
    shared = {"model": MAIN, "micro": 2, "rows": str(rows), "lora": LORA, "precision": "bfloat16", "frozen": True}
    cases = {s: shared | {"strategy": s} | ({"settings": {"shard_size": 2}} if s == "hsdp" else {}) for s in STRATEGIES}
    return run_cases(2, cases, tmp_path_factory.mktemp("bf16"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_frozen_weights_are_held_in_compute_dtype(strategy: str, in_bf16: Any) -> None:
    """Two bytes each, not four plus a copy of two; trained weights stay in fp32."""
    answer = in_bf16[strategy]
    assert answer["effective"]["frozen_dtypes"] == ["torch.bfloat16"]
    assert answer["effective"]["weight_dtypes"] == answer["effective"]["moment_dtypes"] == ["torch.float32"]
    model = tiny_model(MAIN)
    source = FreshWeights(model, 0)
    whole = {
        name: source.read(name, tuple(parameter.shape), 0, parameter.numel()).bfloat16().double()
        for name, parameter in model.named_parameters()
    }
    expected = {name: weight.sum().item() for name, weight in whole.items()}
    assert answer["frozen"] == pytest.approx(expected, rel=1e-9, abs=1e-9), "rounded once, from the base model's own"


def test_adapters_in_bf16_lose_as_much_under_each_strategy(in_bf16: Any) -> None:
    """To the resolution of bf16: 2^-8 of a value, less over many targets."""
    first = in_bf16["ddp"]["steps"]
    for strategy in STRATEGIES:
        for (loss, _), (expected, _) in zip(in_bf16[strategy]["steps"], first, strict=True):
            assert loss == pytest.approx(expected, rel=1e-3), strategy
