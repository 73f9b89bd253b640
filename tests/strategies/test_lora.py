"""Adapters train alike under every strategy, as peft's own do in one process, and nothing else is saved.

The bars are those of test_parity.py. B starts as zero, so some gradients of A nearly cancel: one of -3.5e-9 is -1.3e-9
in peft's own fp32 loop, beside others of 1e-4. Below its eps of 1e-8 AdamW would make 8e-5 of a weight of that, so eps
is 1e-6 here, on both sides.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from distft.checkpoint.read import Checkpoint
from distft.models.adapters import fresh_adapter
from tests.strategies.reference import dense, train_dense
from tests.trained import FAINT_ADAMW, LORA, LORA_KEYS, Key, checkpoint_of

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
