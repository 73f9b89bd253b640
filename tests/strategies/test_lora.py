"""Adapters train alike under every strategy, like peft's own in one process, and nothing else is saved.

Of a base model in 4 bits, transformers decides which layers are, and bitsandbytes what they are then.

The bars are those of test_parity.py. B starts as zero, so some gradients of A nearly cancel: one of -3.5e-9 is -1.3e-9
in peft's own fp32 loop, next to others of 1e-4. Below its eps of 1e-8 AdamW would make 8e-5 of a weight of that, so eps
is 1e-6 here, on both sides.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from distft.checkpoint.load import Checkpoint
from distft.models.adapters import fresh_adapter
from distft.models.init import FreshWeights
from tests.support.reference import dense, train_dense
from tests.support.train_cases import tiny_model
from tests.support.trained import (
    FAINT_ADAMW,
    LORA,
    LORA_KEYS,
    MAIN,
    QLORA_KEYS,
    STRATEGIES,
    Key,
    checkpoint_of,
    run_cases,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def peft_trained(rows: Path) -> dict[str, dict[str, Any]]:
    """What peft does with the same new adapters, its weights under distft's names, by model."""
    return {model: train_with_peft(model.removesuffix("+lora"), rows) for model in {key[1] for key in LORA_KEYS}}


@pytest.fixture(scope="module")
def quantized_trained(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The same for models whose layers transformers has put into 4 bits."""
    found = {}
    for model in {key[1] for key in QLORA_KEYS}:
        name, folder = model.removesuffix("+qlora"), tmp_path_factory.mktemp("base")
        dense(name, 0).save_pretrained(folder)
        found[model] = train_with_peft(name, rows, in_four_bits(folder))
    return found


def in_four_bits(folder: Path) -> dict[str, torch.Tensor]:
    """Returns the weights [out, in] of the layers that transformers loads in 4 bits, as products see them."""
    settings: Any = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="float32"
    )
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, dtype=torch.float32)
    return {
        name: bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).view(shape)
        for name, layer in model.named_modules()
        if isinstance(layer, bitsandbytes.nn.Linear4bit)
        for shape in [(layer.out_features, layer.in_features)]
    }


def train_with_peft(name: str, rows: Path, instead: Mapping[str, torch.Tensor] | None = None) -> dict[str, Any]:
    """instead: weights [out, in] of layers that the base model has others in."""
    settings = LoraConfig(
        r=LORA["rank"], lora_alpha=LORA["alpha"], target_modules="all-linear", fan_in_fan_out=name == "gpt2"
    )
    base = dense(name, 0)
    for layer, weight in (instead or {}).items():
        own = base.get_submodule(layer).weight
        own.data = weight.T.contiguous() if isinstance(base.get_submodule(layer), Conv1D) else weight
    model = get_peft_model(base, settings)
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
    assert_trained_alike(trained[key], peft_trained[key[1]])


@pytest.mark.parametrize("key", QLORA_KEYS, ids=lambda key: "-".join(map(str, key)))
def test_adapters_of_a_base_in_4_bits_train_like_peft_on_it(key: Key, trained: Any, quantized_trained: Any) -> None:
    assert_trained_alike(trained[key], quantized_trained[key[1]])
    first, plain = (
        trained[key]["steps"][0][0],
        trained[key[0], key[1].replace("qlora", "lora"), *key[2:]]["steps"][0][0],
    )
    assert abs(first - plain) > 1e-5 * plain, "the base is another one"


def assert_trained_alike(answer: dict[str, Any], reference: dict[str, Any]) -> None:
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
