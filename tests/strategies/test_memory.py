"""Under fsdp, hsdp and zero3 no process ever holds the whole model, not even while it is loaded."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.ranks import run_ranks

WORLD = 3
FREED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed leaves the process: resident is what is in use


def write_model(folder: Path, layers: int, hidden: int) -> int:
    """Writes a model with memory-filled weights; returns its size in bytes of fp32."""
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=2816, num_hidden_layers=layers, num_attention_heads=16, vocab_size=6000
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.to_empty(device="cpu").save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters()) * 4


# What a process keeps of the model, in its share: fsdp the weights; zero3 working copy, master weights and gradients.
# Both have looked at as many pages of the file.
SHARES = {"fsdp": 2, "zero3": 4}


@pytest.mark.slow
def test_loading_never_holds_the_whole_model(tmp_path: Path) -> None:
    small, big = tmp_path / "small", tmp_path / "big"
    write_model(small, layers=1, hidden=64)
    size = write_model(big, layers=6, hidden=768)
    found = run_ranks(WORLD, "tests.support.load_memory", str(small), str(big), *SHARES, **FREED_AT_ONCE)
    for strategy, grown in found.items():
        print(f"{strategy}: a model of {size >> 20} MiB, processes grew by {[int(g) >> 20 for g in grown]} MiB")
        assert max(grown) < (SHARES[strategy] / WORLD + 0.2) * size  # one moment with the whole would add 0.67
