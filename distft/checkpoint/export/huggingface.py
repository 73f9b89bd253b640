"""A Hugging Face folder of the whole model, one file at a time, held against the live model.

Trap: a tied weight is one parameter, so it is written once under its first name; a file that names both is refused
by safetensors, and one that names the second is read as missing.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from distft.checkpoint.export.beside_weights import stop_ids, write_config, write_generation
from distft.checkpoint.export.weights import TrainedWeights
from distft.checkpoint.probe import check_live
from distft.checkpoint.tensors import save_tensors

FILE_BYTES = 4 * 2**30
MERGED = 4  # times the tolerance: W + B A is rounded once, W x + B A x as it goes


def write_huggingface(
    weights: TrainedWeights, dtype: torch.dtype, folder: Path, base_dir: Path | None = None, ends: Iterable[int] = ()
) -> tuple[list[str], list[str]]:
    """Writes config, generation settings and weights cast to `dtype`; returns what the reader of the folder has to
    know, and warnings.

    base_dir: the folder of the base model, where there is one. ends: ids of the tokens that trained text ends with.
    RuntimeError when the written folder does not open, or does not say what the live model said.
    """
    notes = write_config(weights.model, base_dir, dtype, folder)
    warnings = write_generation(weights.model, base_dir, ends, folder)
    _write_weights(weights, dtype, folder)
    verify(folder, weights, dtype)
    return notes, warnings


def verify(folder: Path, weights: TrainedWeights, dtype: torch.dtype) -> None:
    """Raises RuntimeError unless `folder` opens without a missing or unknown tensor, holds the weights bit for bit,
    and says what the live model said where the checkpoint kept that."""
    opened: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    model, info = opened
    wrong = {key: sorted(map(str, info[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if any(wrong.values()):
        raise RuntimeError(f"{folder} does not open as it should: {json.dumps({k: v for k, v in wrong.items() if v})}")
    for name, parameter in model.named_parameters():
        if not torch.equal(parameter.detach(), weights.whole(name, tuple(parameter.shape)).to(dtype)):
            raise RuntimeError(f"{folder}: {name} is not the checkpoint's")
    tolerance = weights.tolerance(dtype) * (MERGED if weights.has_adapters else 1)
    check_live(model, weights.checkpoint.folder, tolerance, stop_ids(folder))


def _write_weights(weights: TrainedWeights, dtype: torch.dtype, folder: Path) -> None:
    parameters = dict(weights.model.named_parameters())
    files = list(_shards(parameters, dtype))
    index = {}
    for i, names in enumerate(files):
        name = f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" if len(files) > 1 else "model.safetensors"
        tensors = {key: weights.whole(key, tuple(parameters[key].shape)).to(dtype).contiguous() for key in names}
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
