"""Opens a run's checkpoint and writes it in one of the formats."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from transformers import AutoModelForCausalLM, PreTrainedModel

from distft.checkpoint.export.dcp import write_dcp
from distft.checkpoint.export.deepspeed_universal import write_deepspeed_universal
from distft.checkpoint.export.folder import whole_or_nothing
from distft.checkpoint.export.huggingface import write_huggingface
from distft.checkpoint.export.peft_folder import write_peft
from distft.checkpoint.export.weights import BaseFolder, TrainedWeights
from distft.checkpoint.keep import reading
from distft.checkpoint.manifest import check_all
from distft.checkpoint.read import Checkpoint
from distft.data.tokenizers import load_tokenizer
from distft.models.fresh import FreshWeights
from distft.models.skeleton import architecture, skeleton
from distft.models.weights import WeightSource
from distft.optim.groups import decay_groups
from distft.report.card import model_card
from distft.report.facts import gather
from distft.run import Plan, RunFolder, read_json

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Opened:
    """A finished run, opened: its model as a skeleton, where the base model's weights are, and its checkpoint."""

    run: RunFolder
    config: dict[str, Any]
    plan: Plan
    checkpoint: Checkpoint
    model: PreTrainedModel
    dtype: torch.dtype
    computed_in: torch.dtype

    @property
    def weights(self) -> TrainedWeights:
        scale = getattr(self.tuning, "scale", 0.0)
        return TrainedWeights(self.checkpoint, self.model, self.base, scale, self.computed_in)

    @property
    def base(self) -> WeightSource:
        if self.plan.model_dir:
            return BaseFolder(Path(self.plan.model_dir), self.model)
        return FreshWeights(self.model, self.config["seed"])

    @property
    def tuning(self) -> Any:
        return instantiate(self.config["tuning"], _convert_="all")

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        make = instantiate(self.config["optimizer"], _convert_="all")
        return make(decay_groups([(p, p.ndim) for p in self.model.parameters()]))


def write(run: RunFolder, folder: Path, out: Path, word: str, dtype: str | None) -> None:
    """Writes the checkpoint in `folder` to `out`; RuntimeError when it is damaged or not what the live model said."""
    with reading(folder), whole_or_nothing(out) as partial:
        check_all(folder)
        WRITE[word](open_run(run, folder, dtype), partial)


def open_run(run: RunFolder, folder: Path, dtype: str | None) -> Opened:
    config, plan = run.read_config(), run.read_plan()
    settings, model_dir = config["model"], Path(plan.model_dir) if plan.model_dir else None
    facts = settings["architecture"] | settings["tiny_architecture"]
    model = skeleton(architecture(model_dir, facts), "auto")  # as every machine can: this may be another one
    live = read_json(run.path / "effective.json")["engine"]["compute_dtype"].removeprefix("torch.")
    computed_in = getattr(torch, live)
    return Opened(run, config, plan, Checkpoint(folder), model, DTYPES[dtype] if dtype else computed_in, computed_in)


def _huggingface(opened: Opened, folder: Path) -> None:
    _write_words(opened, folder, adapters=False)
    write_huggingface(opened.weights, opened.dtype, folder)


def _peft(opened: Opened, folder: Path) -> None:
    _write_words(opened, folder, adapters=True)
    settings, is_there = opened.config["model"], opened.plan.model_dir is not None
    about = {"base_model_name_or_path": settings["path"], "revision": settings["revision"]} if is_there else {}
    write_peft(opened.weights, opened.tuning, _base_model(opened), about, folder)


def _base_model(opened: Opened) -> PreTrainedModel:
    if opened.plan.model_dir:
        return AutoModelForCausalLM.from_pretrained(opened.plan.model_dir, dtype=opened.dtype)
    return dense(opened.model, opened.base, opened.dtype)


def dense(skeleton: PreTrainedModel, source: WeightSource, dtype: torch.dtype) -> PreTrainedModel:
    """Returns the model with its weights in memory."""
    model = AutoModelForCausalLM.from_config(skeleton.config, dtype=dtype)
    model.tie_weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            weight = source.read(name, tuple(parameter.shape), 0, parameter.numel())
            parameter.copy_(weight.view(parameter.shape))
    return model


def _dcp(opened: Opened, folder: Path) -> None:
    write_dcp(opened.checkpoint, opened.model, opened.optimizer, folder)


def _deepspeed_universal(opened: Opened, folder: Path) -> None:
    write_deepspeed_universal(opened.checkpoint, opened.model, opened.optimizer, folder)


WRITE = {
    "huggingface": _huggingface,
    "merged": _huggingface,
    "peft": _peft,
    "dcp": _dcp,
    "deepspeed_universal": _deepspeed_universal,
}


def _write_words(opened: Opened, folder: Path, adapters: bool) -> None:
    """Writes tokenizer with chat template, and the model card."""
    tokenizer, plan = load_tokenizer(opened.plan.tokenizer_dir), opened.plan
    tokenizer.save_pretrained(folder)
    template = hashlib.sha256((tokenizer.chat_template or "").encode()).hexdigest()
    base, data_key = plan.model_dir and opened.config["model"]["path"], plan.data_dir and Path(plan.data_dir).name
    (folder / "README.md").write_text(model_card(gather(opened.run), base, template, data_key, adapters))
