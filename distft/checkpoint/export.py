"""A checkpoint becomes a Hugging Face folder, one file at a time, and is held against the live model.

Trap: a tied weight is one parameter, so it is written once under its first name; a file that names both is refused
by safetensors, and one that names the second is read as missing.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from distft.checkpoint.manifest import check_all
from distft.checkpoint.probe import PROBE, read_probe
from distft.checkpoint.read import Checkpoint
from distft.checkpoint.tensors import save_tensors

FILE_BYTES = 4 * 2**30
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-6}  # of the largest logit; bf16: a few roundings of 2**-8


def export(
    checkpoint: Checkpoint, skeleton: PreTrainedModel, tokenizer: Any, card: str, dtype: torch.dtype, out: Path
) -> None:
    """Writes config, tokenizer with chat template, model card, and weights cast to `dtype` into `out`.

    The folder appears whole or not at all.

    RuntimeError when the written folder does not open, or does not say what the live model said.
    """
    check_all(checkpoint.folder)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        skeleton.config.dtype = dtype
        skeleton.config.save_pretrained(partial)
        if skeleton.generation_config is not None:
            skeleton.generation_config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        (partial / "README.md").write_text(card)
        _write_weights(checkpoint, skeleton, dtype, partial)
        verify(partial, checkpoint, dtype)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(out)


def verify(folder: Path, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    """Raises RuntimeError unless `folder` opens without a missing or unknown tensor, holds the checkpoint's weights
    bit for bit, and gives the live model's logits where the checkpoint kept them."""
    opened: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    model, info = opened
    wrong = {key: sorted(map(str, info[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if any(wrong.values()):
        raise RuntimeError(f"{folder} does not open as it should: {json.dumps({k: v for k, v in wrong.items() if v})}")
    for name, parameter in model.named_parameters():
        if not torch.equal(parameter.detach(), _whole(checkpoint, name, parameter).to(dtype)):
            raise RuntimeError(f"{folder}: {name} is not the checkpoint's")
    if (checkpoint.folder / PROBE).is_file():
        _compare_logits(model, *read_probe(checkpoint.folder), TOLERANCE[dtype])


def _compare_logits(model: nn.Module, input_ids: torch.Tensor, live: torch.Tensor, tolerance: float) -> None:
    with torch.no_grad():
        exported = model.eval()(input_ids=input_ids).logits.float()
    distance = ((exported - live).abs().max() / live.abs().max()).item()
    if not distance <= tolerance:
        raise RuntimeError(
            f"the export's logits differ from the live model's by {distance:.1e}, more than {tolerance:.1e}"
        )


def _write_weights(checkpoint: Checkpoint, skeleton: PreTrainedModel, dtype: torch.dtype, folder: Path) -> None:
    parameters = dict(skeleton.named_parameters())
    unknown = sorted(parameters.keys() ^ set(checkpoint.names))
    if unknown:
        raise RuntimeError(f"{checkpoint.folder} and the model do not have the same parameters: {unknown[0]}")
    files = list(_shards(parameters, dtype))
    index = {}
    for i, names in enumerate(files):
        name = f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" if len(files) > 1 else "model.safetensors"
        tensors = {key: _whole(checkpoint, key, parameters[key]).to(dtype) for key in names}
        save_tensors(tensors, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(names, name)
    if len(files) > 1:
        size = sum(parameter.numel() for parameter in parameters.values()) * dtype.itemsize
        text = json.dumps({"metadata": {"total_size": size}, "weight_map": index}, indent=2)
        (folder / "model.safetensors.index.json").write_text(text)


def _shards(parameters: dict[str, nn.Parameter], dtype: torch.dtype) -> Iterator[list[str]]:
    """Yields the names of each file, at most FILE_BYTES of weights or a single tensor."""
    names, size = [], 0
    for name, parameter in parameters.items():
        more = parameter.numel() * dtype.itemsize
        if names and size + more > FILE_BYTES:
            yield names
            names, size = [], 0
        names, size = [*names, name], size + more
    yield names


def _whole(checkpoint: Checkpoint, name: str, like: torch.Tensor) -> torch.Tensor:
    return checkpoint.read(name, tuple(like.shape), 0, like.numel()).view(like.shape)
