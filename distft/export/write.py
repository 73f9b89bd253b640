"""Opens a checkpoint of a run and writes it in one of the export formats."""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from hydra.utils import instantiate
from transformers import PreTrainedModel

from distft.checkpoint.format import check_all
from distft.checkpoint.load import Checkpoint
from distft.checkpoint.probe import PROBE
from distft.checkpoint.retention import reading
from distft.checkpoint.weights import SavedWeights
from distft.config import Config, read_config
from distft.data.example import Example, Segment
from distft.data.key import chat_template
from distft.data.render import make_renderer
from distft.data.tokenize import load_tokenizer
from distft.export.dcp import write_dcp
from distft.export.deepspeed_universal import write_deepspeed_universal
from distft.export.huggingface import BaseFolder, TrainedWeights, whole_or_nothing, write_huggingface, write_tokenizer
from distft.models.adapters import QLora
from distft.models.build import architecture, skeleton
from distft.models.init import FreshWeights
from distft.models.quantization import Dequantized
from distft.optim.groups import decay_groups
from distft.report.card import model_card
from distft.report.facts import gather
from distft.run import Plan, RunFolder, read_json
from distft.tasks import Task, load_task
from distft.tasks.causal_lm import TASK as CAUSAL_LM
from distft.tasks.labels import Labels
from distft.tensors.streaming import WeightSource

ONE_TURN = Example((Segment("user", "Question", False), Segment("assistant", "Answer", True)))
TEXT = Example((Segment("text", "Text", True),))
UNVERIFIED = ("dcp", "deepspeed_universal")  # their files are pickles, which distft does not read
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Opened:
    """A run that is open for export: config, plan, checkpoint, and its model on the meta device."""

    run: RunFolder
    config: Config
    plan: Plan
    saved: SavedWeights
    model: PreTrainedModel
    dtype: torch.dtype
    computed_in: torch.dtype
    why: str

    @property
    def checkpoint(self) -> Checkpoint:
        """The newest one, with the optimizer's state."""
        return self.saved.checkpoints[-1]

    @property
    def base_dir(self) -> Path | None:
        return Path(self.plan.model_dir) if self.plan.model_dir else None

    @cached_property
    def rendering(self) -> tuple[str | None, list[int]]:
        """The chat template of the prepared rows, None for none, and the ids of their end tokens."""
        plan = self.plan
        file = Path(plan.data_dir) / "manifest.json" if plan.data_dir else None
        recorded = read_json(file).get("rendering") if file and file.is_file() else None
        if recorded:
            return recorded["chat_template"], recorded["end_token_ids"]
        tokenizer = load_tokenizer(plan.tokenizer_dir)  # the rows are deleted, or of an older version: by the config
        renderer = make_renderer(tokenizer, chat_template(self.config.data.chat_template))
        renderer(ONE_TURN if renderer.chat_template else TEXT)
        return renderer.chat_template, tokenizer.convert_tokens_to_ids(sorted(renderer.ends))

    @property
    def weights(self) -> TrainedWeights:
        scale = getattr(self.tuning, "scale", 0.0)
        task = load_task(self.config.model.task)
        return TrainedWeights(self.saved, self.model, self.base, scale, self.computed_in, task)

    @property
    def base(self) -> WeightSource:
        """The base model's weights, as the run computed with them."""
        source: WeightSource = FreshWeights(self.model, self.config.seed)
        if self.plan.model_dir:
            source = BaseFolder(Path(self.plan.model_dir), self.model, source)
        return Dequantized(source, self.tuning.quantized(self.model)) if self.is_quantized else source

    @property
    def is_quantized(self) -> bool:
        return isinstance(self.tuning, QLora)

    @property
    def tuning(self) -> Any:
        return instantiate(self.config.tuning.plain(), _convert_="all")

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        make = instantiate(self.config.optimizer.plain(), _convert_="all")
        return make(decay_groups([(p, p.ndim) for p in self.model.parameters()]))


def write(
    run: RunFolder, folders: Sequence[Path], out: Path, format: str, dtype: str | None, why: str
) -> tuple[str, list[str]]:
    """Writes the checkpoint in `folders`, or the mean of several, to `out`; returns to which extent it was verified,
    and warnings.

    dtype: a key of DTYPES; None: the dtype that the run computed in. why: the reason for this checkpoint, for the model
    card. RuntimeError when the checkpoint is damaged, or the result does not match the live model.
    """
    with ExitStack() as held, whole_or_nothing(out) as partial:
        for folder in folders:
            held.enter_context(reading(folder))
            check_all(folder)
        opened = open_run(run, folders, dtype, why)
        warnings = WRITE[format](opened, partial)
        has_probe = not opened.saved.is_mean and (folders[-1] / PROBE).is_file()
    if format in UNVERIFIED:
        return "not verified: its files are pickles, which distft does not read", warnings
    if opened.saved.is_mean:
        return "weights verified; no live model had this mean, so there are no logits to compare with", warnings
    return "verified" if has_probe else "weights verified; the run stored no logits to compare with", warnings


def open_run(run: RunFolder, folders: Sequence[Path], dtype: str | None, why: str) -> Opened:
    config, plan = read_config(run), run.read_plan()
    model_dir = Path(plan.model_dir) if plan.model_dir else None
    # The kernel "auto" exists on every machine; this may be another one than that of the run.
    described = architecture(model_dir, config.model.facts, Labels.of(plan.labels))
    if config.model.task == "reward_model":
        described.problem_type = None  # as other programs save one; with a value it would be a regression
    if plan.labels and described.get_text_config().pad_token_id is None:
        # transformers finds the last token of each row of a batch by it; without one it refuses two rows
        tokenizer = load_tokenizer(plan.tokenizer_dir)
        described.get_text_config().pad_token_id = tokenizer.pad_token_id or tokenizer.eos_token_id
    model = skeleton(described, "auto", load_task(config.model.task))
    live = read_json(run.path / "effective.json")["engine"]["compute_dtype"].removeprefix("torch.")
    computed_in = getattr(torch, live)
    given = DTYPES[dtype] if dtype else computed_in
    saved = SavedWeights([Checkpoint(folder) for folder in folders], ema=config.evaluates_ema)
    return Opened(run, config, plan, saved, model, given, computed_in, why)


def _huggingface(opened: Opened, folder: Path) -> list[str]:
    _, ends = opened.rendering
    notes, warnings = write_huggingface(opened.weights, opened.dtype, folder, opened.base_dir, ends)
    _write_tokenizer_and_card(opened, folder, notes, adapters=False)
    return warnings


def _peft(opened: Opened, folder: Path) -> list[str]:
    from distft.export.peft import write_peft  # peft imports bitsandbytes, and that a compiler: 5 s

    model, is_there = opened.config.model, opened.plan.model_dir is not None
    about = {"base_model_name_or_path": model.path, "revision": model.revision} if is_there else {}
    _, ends = opened.rendering
    base = _base_model(opened)
    warnings = write_peft(opened.weights, opened.tuning, base, about, folder, opened.base_dir, ends)
    _write_tokenizer_and_card(opened, folder, [], adapters=True)
    return warnings


def _base_model(opened: Opened) -> PreTrainedModel:
    if opened.plan.model_dir and not opened.is_quantized:
        auto_class = getattr(transformers, opened.weights.task.model_class)
        labels = Labels.of(opened.plan.labels)
        config = architecture(opened.plan.model_dir, {}, labels)
        return auto_class.from_pretrained(opened.plan.model_dir, config=config, dtype=opened.dtype)
    return dense(opened.model, opened.base, opened.dtype, opened.weights.task)


def dense(
    skeleton: PreTrainedModel, source: WeightSource, dtype: torch.dtype, task: Task = CAUSAL_LM
) -> PreTrainedModel:
    """Returns the model with its weights loaded in `dtype`."""
    model = getattr(transformers, task.model_class).from_config(skeleton.config, dtype=dtype)
    model.tie_weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            weight = source.read(name, tuple(parameter.shape), 0, parameter.numel())
            parameter.copy_(weight.view(parameter.shape))
    return model


def _dcp(opened: Opened, folder: Path) -> list[str]:
    write_dcp(opened.checkpoint, opened.model, opened.optimizer, folder)
    return []


def _deepspeed_universal(opened: Opened, folder: Path) -> list[str]:
    write_deepspeed_universal(opened.checkpoint, opened.model, opened.optimizer, folder)
    return []


WRITE = {
    "huggingface": _huggingface,
    "merged": _huggingface,
    "peft": _peft,
    "dcp": _dcp,
    "deepspeed_universal": _deepspeed_universal,
}


def _write_tokenizer_and_card(opened: Opened, folder: Path, notes: list[str], adapters: bool) -> None:
    """Writes the tokenizer with its chat template, and the model card with `notes`."""
    plan, (template, _) = opened.plan, opened.rendering
    notes = notes + write_tokenizer(Path(plan.tokenizer_dir) if plan.tokenizer_dir else None, template, folder)
    digest = f"sha256 {hashlib.sha256(template.encode()).hexdigest()}" if template is not None else "none"
    base, data_key = plan.model_dir and opened.config.model.path, plan.data_dir and Path(plan.data_dir).name
    made = [("checkpoint", opened.why), ("prepared data", data_key), ("chat template", digest)]
    made += [("note", note) for note in notes]
    facts = gather(opened.run, opened.checkpoint.step)
    (folder / "README.md").write_text(model_card(facts, base, made, adapters))
