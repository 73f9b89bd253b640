"""Which kernel `model.attention=auto` means: a function of device, precision, rows and model, with its reason."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from distft.models.attention.choose import (
    SDPA,
    Documents,
    Machine,
    Traits,
    anywhere,
    choose,
    effective_attention,
    enabled_sdpa,
)
from distft.models.build import skeleton
from tests.support.train_cases import tiny_model

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
HOPPER, AMPERE, VOLTA, BLACKWELL, GEFORCE = (9, 0), (8, 0), (7, 0), (10, 0), (12, 0)
PLAIN = Traits(head_size=128, dropout=False, caps_scores=False, goes_with_sdpa=True)
SHORT = Documents(mean_tokens=190, per_micro_batch=40, num_lengths=700)
LONG = Documents(mean_tokens=4096, per_micro_batch=2, num_lengths=1)


def cuda(capability: tuple[int, int] | None = HOPPER, dtype: torch.dtype = BF16) -> Machine:
    return Machine("cuda", dtype, capability)


def with_(**changes: Any) -> Traits:
    return replace(PLAIN, **changes)


TABLE = [
    (Machine("cpu", FP32), SHORT, PLAIN, False, "sdpa", "CPU"),
    (Machine("cpu", BF16), LONG, PLAIN, True, "sdpa", "CPU"),
    (cuda(dtype=FP32), SHORT, PLAIN, False, "sdpa", "not in float32"),
    (cuda(), SHORT, PLAIN, False, "varlen", "40.0 documents per micro-batch, of 190 tokens and 700 lengths"),
    (cuda(dtype=FP16), SHORT, PLAIN, False, "varlen", "one call for all"),
    (cuda(), LONG, PLAIN, False, "sdpa", "cuDNN"),
    (cuda(BLACKWELL), LONG, PLAIN, False, "sdpa", "cuDNN"),
    (cuda(AMPERE), LONG, PLAIN, False, "varlen", "one call for all"),
    (cuda(GEFORCE), LONG, PLAIN, False, "varlen", "one call for all"),
    (cuda(), replace(LONG, num_lengths=17), PLAIN, False, "varlen", "17 lengths"),
    (cuda(), replace(LONG, per_micro_batch=4.1), PLAIN, False, "varlen", "one call for all"),
    (cuda(), replace(LONG, mean_tokens=2047), PLAIN, False, "varlen", "one call for all"),
    (cuda(), LONG, PLAIN, True, "varlen", "compiled"),
    (cuda(VOLTA, FP16), SHORT, PLAIN, False, "sdpa", "this device has 7.0"),
    (cuda(None), SHORT, PLAIN, False, "sdpa", "NVIDIA"),  # ROCm
    (Machine("xpu", BF16), SHORT, PLAIN, False, "sdpa", "this one is xpu"),
    (Machine("xpu", BF16), SHORT, PLAIN, True, "sdpa", "this one is xpu"),
    (cuda(), SHORT, with_(dropout=True), False, "sdpa", "dropout"),
    (cuda(), SHORT, with_(head_size=512), False, "sdpa", "512"),
    (cuda(), SHORT, with_(head_size=100), False, "sdpa", "100"),
    (cuda(), SHORT, with_(caps_scores=True), False, "eager", "caps attention scores"),
    (cuda(), SHORT, with_(goes_with_sdpa=False), True, "eager", "not torch's SDPA"),
    (Machine("cpu", FP32), SHORT, with_(caps_scores=True), False, "eager", "caps attention scores"),
]


@pytest.mark.parametrize(("machine", "documents", "traits", "compiled", "expected", "reason"), TABLE)
def test_auto_is_the_fastest_usable_kernel(
    machine: Machine, documents: Documents, traits: Traits, compiled: bool, expected: str, reason: str
) -> None:
    found = effective_attention("auto", machine, documents, traits, compiled=compiled)
    assert (found.asked, found.in_force) == ("auto", expected) and reason in found.why


@pytest.mark.parametrize("word", ["sdpa", "varlen", "flash_attention_3", "eager"])
def test_a_kernel_name_is_used_as_typed(word: str) -> None:
    found = effective_attention(word, cuda(), LONG, with_(caps_scores=True), compiled=True)
    assert (found.asked, found.in_force, found.why) == (word, word, "requested by name")


@pytest.mark.parametrize("machine", [cuda(dtype=FP32), cuda(VOLTA), cuda(None)], ids=str)
def test_compile_without_a_usable_kernel_is_refused(machine: Machine) -> None:
    with pytest.raises(ValueError, match=r"train.compile=true: varlen .* Try: train.compile=false"):
        effective_attention("auto", machine, SHORT, PLAIN, compiled=True)


def test_documents_are_counted_from_the_rows() -> None:
    lengths = np.array([100, 200, 300, 200], np.int32)
    assert Documents.of(lengths, None, 1000) == Documents(200.0, 5.0, 3)
    assert Documents.of(lengths, 4, None) == Documents(200.0, 4, 3)
    assert Documents.of(lengths, None, 64).per_micro_batch == 1.0
    assert Documents.of(np.zeros(0, np.int32), None, 64).num_lengths == 0


def test_attention_traits_are_read_from_the_models_config() -> None:
    assert Traits.of(tiny_model("gpt2", attn_pdrop=0.1).config) == Traits(16, True, False, True)
    assert Traits.of(tiny_model("qwen3_8b").config) == Traits(
        tiny_model("qwen3_8b").config.head_dim, dropout=False, caps_scores=False, goes_with_sdpa=True
    )
    capped = AutoConfig.for_model("gemma2", hidden_size=64, num_attention_heads=4, head_dim=16)
    assert Traits.of(capped).caps_scores and anywhere(capped) == "eager"
    with_sinks = AutoConfig.for_model("gpt_oss", hidden_size=64, num_attention_heads=4, head_dim=16)
    assert not Traits.of(with_sinks).goes_with_sdpa and anywhere(with_sinks) == "eager"


def test_without_a_machine_auto_is_the_portable_kernel() -> None:
    assert tiny_model("llama3_8b").config._attn_implementation == SDPA
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    capped = AutoConfig.for_model("gemma2", num_hidden_layers=2, intermediate_size=32, vocab_size=64, **sizes)
    assert skeleton(capped, "auto").config._attn_implementation == "eager"


def test_flash_attention_3_is_never_fetched() -> None:
    """transformers would take one from the hub where the package is not installed."""
    with pytest.raises(ValueError, match=r"flash_attention_3: needs CUDA and the package flash-attn-3.*Try: .*auto"):
        choose("flash_attention_3")


def test_disabled_sdpa_kernels_are_not_listed() -> None:
    before = enabled_sdpa()
    assert set(before) <= {"cudnn", "flash", "mem_efficient", "math"} and "math" in before
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        assert enabled_sdpa() == [name for name in before if name != "flash"]
    finally:
        torch.backends.cuda.enable_flash_sdp("flash" in before)
