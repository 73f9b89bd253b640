"""A peft folder of a run's adapters, held against the live model.

peft puts its adapters under names of its own; this is the one place that knows them.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from distft.checkpoint.chunks import save_tensors
from distft.checkpoint.probe import check_live
from distft.export.huggingface import TrainedWeights, stop_ids, write_generation
from distft.models.adapters import Lora

PREFIX = "base_model.model."


def write_peft(
    weights: TrainedWeights,
    tuning: Lora,
    base: PreTrainedModel,
    about_base: dict[str, str | None],
    folder: Path,
    base_dir: Path | None = None,
    ends: Iterable[int] = (),
) -> list[str]:
    """Writes adapter_config.json, generation settings and the adapters in the dtype of `base`, the base model; returns
    warnings.

    about_base: where peft finds it: base_model_name_or_path and revision. base_dir: its folder here, where there is
    one. ends: ids of the tokens that trained text ends with.
    RuntimeError when the written folder does not open, or does not say what the live model said.
    """
    linear_is_transposed = any(isinstance(module, Conv1D) for module in weights.model.modules())
    settings = LoraConfig(
        r=tuning.rank,
        lora_alpha=_whole(tuning.alpha),  # pyright: ignore[reportArgumentType]  # a fraction will do
        lora_dropout=tuning.dropout,
        fan_in_fan_out=linear_is_transposed,
        task_type="CAUSAL_LM",
        inference_mode=True,
        **about_base,  # pyright: ignore[reportArgumentType]
    )
    settings.target_modules = sorted(tuning.targets(weights.model))  # given to LoraConfig it would be a set
    settings.save_pretrained(str(folder))
    tensors = {PREFIX + name: weights.adapter(name).to(base.dtype) for name in sorted(weights.trained)}
    save_tensors(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    warnings = write_generation(weights.model, base_dir, ends, folder)
    verify(folder, weights, base)
    return warnings


def _whole(number: float) -> float | int:
    return int(number) if number == int(number) else number


def verify(folder: Path, weights: TrainedWeights, base: PreTrainedModel) -> None:
    """Raises RuntimeError unless peft finds the checkpoint's adapters, bit for bit, in `folder`, and with them `base`
    says what the live model said where the checkpoint kept that."""
    model: Any = PeftModel.from_pretrained(base, str(folder), autocast_adapter_dtype=False)
    found = {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}
    own = {name.removeprefix(PREFIX).replace(".default.", "."): parameter for name, parameter in found.items()}
    if own.keys() != weights.trained:
        raise RuntimeError(f"{folder}: peft opens other adapters: {sorted(own.keys() ^ weights.trained)[0]}")
    for name, parameter in own.items():
        if not torch.equal(parameter.detach(), weights.adapter(name).to(base.dtype)):
            raise RuntimeError(f"{folder}: {name} is not the checkpoint's")
    check_live(model, weights.checkpoint.folder, weights.tolerance(base.dtype), stop_ids(folder))
