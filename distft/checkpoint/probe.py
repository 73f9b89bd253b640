"""What the live model says on a few tokens, kept beside a checkpoint so that an export can be held against it."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from distft.checkpoint.tensors import save_tensors
from distft.runtime.disk import replaced
from distft.runtime.seals import Damaged

PROBE = "probe.safetensors"
TOKENS = 16


def probe_tokens(vocab_size: int) -> torch.Tensor:
    """Returns one row of token ids spread over the vocabulary, int64 [1, S]."""
    return torch.linspace(0, vocab_size - 1, TOKENS).long()[None]


def write_probe(folder: Path, input_ids: torch.Tensor, logits: torch.Tensor) -> None:
    """Puts the probe beside a checkpoint that counts already: whole, by one rename, or not at all."""
    with replaced(folder / PROBE) as beside:
        save_tensors({"input_ids": input_ids.cpu(), "logits": logits.float().cpu().contiguous()}, beside)


def read_probe(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the tokens [1, S] and the live model's logits on them [1, S, V], fp32; Damaged when they are cut off."""
    try:
        tensors = load_file(folder / PROBE)
        return tensors["input_ids"], tensors["logits"]
    except (SafetensorError, KeyError) as error:
        raise Damaged(f"{folder / PROBE} cannot be read: {error}") from error


@torch.no_grad()
def check_logits(model: nn.Module, folder: Path, tolerance: float) -> None:
    """Raises RuntimeError unless `model` gives the live model's logits, to `tolerance` of the largest, where the
    checkpoint in `folder` kept them."""
    if not (folder / PROBE).is_file():
        return
    input_ids, live = read_probe(folder)
    exported = model.eval()(input_ids=input_ids).logits.float()
    distance = ((exported - live).abs().max() / live.abs().max()).item()
    if not distance <= tolerance:
        raise RuntimeError(
            f"the export's logits differ from the live model's by {distance:.1e}, more than {tolerance:.1e}"
        )
