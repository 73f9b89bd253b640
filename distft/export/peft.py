"""Writes a peft folder of a run's adapters, verified against the live model.

peft prefixes the names of its adapters; only this file knows the prefix.
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
from distft.models.adapters import Lora, QLora, is_adapter
from distft.models.quantization import FILE, SETTINGS
from distft.run import write_json
from distft.tasks.causal_lm import TASK as CAUSAL_LM

PREFIX = "base_model.model."
_OF_HEAD = ".modules_to_save.default."


def write_peft(
    weights: TrainedWeights,
    tuning: Lora,
    base: PreTrainedModel,
    about_base: dict[str, str | None],
    folder: Path,
    base_dir: Path | None = None,
    ends: Iterable[int] = (),
) -> list[str]:
    """Writes adapter_config.json, generation settings, and the adapters in the dtype of `base`; returns warnings.

    For a base in 4 bits quantization_config.json is written, too, since peft has no place for it. base: the base model.
    about_base: base_model_name_or_path and revision, by which peft finds it. base_dir: its local folder, None without
    one. ends: ids of the tokens that end the trained texts.
    RuntimeError when the written folder does not open, or does not match the live model.
    """
    whole = [name for name in sorted(weights.trained) if not is_adapter(name)]  # of a new head
    heads = sorted({name.partition(".")[0] for name in whole})
    linear_is_transposed = any(isinstance(module, Conv1D) for module in weights.model.modules())
    settings = LoraConfig(
        r=tuning.rank,
        lora_alpha=_whole(tuning.alpha),  # pyright: ignore[reportArgumentType]  # peft accepts a fraction
        lora_dropout=tuning.dropout,
        fan_in_fan_out=linear_is_transposed,
        task_type=weights.task.peft_type,
        modules_to_save=heads or None,
        inference_mode=True,
        **about_base,  # pyright: ignore[reportArgumentType]
    )
    settings.target_modules = sorted(tuning.targets(weights.model))  # LoraConfig would make it a set
    settings.save_pretrained(str(folder))
    if isinstance(tuning, QLora):
        write_json(folder / FILE, SETTINGS | {"bnb_4bit_compute_dtype": str(base.dtype).removeprefix("torch.")})
    tensors = {PREFIX + name: weights.adapter(name).to(base.dtype) for name in sorted(weights.trained)}
    save_tensors(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    warnings = list[str]()
    if weights.task is CAUSAL_LM:
        warnings = write_generation(weights.model, base_dir, ends, folder)
    verify(folder, weights, base)
    return warnings


def _whole(number: float) -> float | int:
    return int(number) if number == int(number) else number


def verify(folder: Path, weights: TrainedWeights, base: PreTrainedModel) -> None:
    """Raises RuntimeError unless peft loads exactly the checkpoint's adapters from `folder`.

    Where the checkpoint has a probe, the outputs of `base` with the adapters must match it too.
    """
    model: Any = PeftModel.from_pretrained(base, str(folder), autocast_adapter_dtype=False)
    found = {name: each for name, each in model.named_parameters() if ".lora_" in name or _OF_HEAD in name}
    own = {
        name.removeprefix(PREFIX).replace(_OF_HEAD, ".").replace(".default.", "."): parameter
        for name, parameter in found.items()
    }
    if own.keys() != weights.trained:
        raise RuntimeError(f"{folder}: peft loads different adapters: {sorted(own.keys() ^ weights.trained)[0]}")
    for name, parameter in own.items():
        if not torch.equal(parameter.detach(), weights.adapter(name).to(base.dtype)):
            raise RuntimeError(f"{folder}: {name} differs from the checkpoint")
    if weights.checkpoint.is_mean:
        return
    stops = stop_ids(folder) if weights.task is CAUSAL_LM else []
    check_live(model, weights.checkpoint.folder, weights.tolerance(base.dtype), stops)
