"""What the live model says on a few tokens, kept beside a checkpoint so that an export can be held against it."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from distft.checkpoint.tensors import save_tensors

PROBE = "probe.safetensors"
TOKENS = 16


def probe_tokens(vocab_size: int) -> torch.Tensor:
    """Returns one row of token ids spread over the vocabulary, int64 [1, S]."""
    return torch.linspace(0, vocab_size - 1, TOKENS).long()[None]


def write_probe(folder: Path, input_ids: torch.Tensor, logits: torch.Tensor) -> None:
    save_tensors({"input_ids": input_ids.cpu(), "logits": logits.float().cpu().contiguous()}, folder / PROBE)


def read_probe(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the tokens [1, S] and the live model's logits on them [1, S, V], fp32."""
    tensors = load_file(folder / PROBE)
    return tensors["input_ids"], tensors["logits"]
