"""Writes a run as a Hugging Face folder: weights, config, tokenizer, generation config.

Tokenizer and settings are those of the base model. Only what training determines is changed: the dtype, the chat
template that the rows were rendered with, and the stop tokens of the answers.

Trap: transformers 4 silently misreads what transformers 5 saves: it expects rope_theta and rope_scaling at the top
level, and falls back to 10,000 and no scaling. So files are copied wherever possible, not saved again.
Trap: a tied weight is one parameter, so it is written once under its first name. safetensors refuses a file with both
names, and transformers reports one with the second name only as missing.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from math import prod
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from distft.checkpoint.chunks import save_tensors
from distft.checkpoint.probe import check_live
from distft.checkpoint.weights import SavedWeights
from distft.data.key import TEMPLATE_FILES, TOKENIZER_FILES
from distft.data.tokenize import byte_tokenizer
from distft.models.adapters import A, B, is_adapter
from distft.models.heads import new_weights
from distft.tasks import Task
from distft.tasks.causal_lm import TASK as CAUSAL_LM
from distft.tensors.safetensors import read_header, tensors_of
from distft.tensors.streaming import WeightSource, names_in_model
from distft.tensors.weight_files import weight_files

Settings = dict[str, Any]  # a JSON file of transformers: its keys depend on the model and the version


@contextmanager
def whole_or_nothing(out: Path) -> Iterator[Path]:
    """Yields a temporary folder next to `out`, renamed to `out` at the end, deleted after an error.

    Raises the OSError in the chain of an error, where there is one: torch's writers hide a full disk behind their own.
    """
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        os_error = next((cause for cause in _chain(error) if isinstance(cause, OSError)), error)
        if os_error is error:
            raise
        raise os_error from error
    partial.rename(out)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class BaseFolder:
    """Reads the parameters of a model from a folder of safetensors files, and a new head's from another source."""

    def __init__(self, folder: Path, model: PreTrainedModel, fresh: WeightSource | None = None) -> None:
        """fresh: of the head that the folder does not have."""
        self.folder, self.fresh, self.new = folder, fresh, new_weights(model, folder)
        headers = {folder / name: read_header(folder / name) for name in weight_files(folder)}
        names = names_in_model(model, [name for header in headers.values() for name in header["tensors"]])
        for header in headers.values():
            header["tensors"] = {name: entry for name, entry in header["tensors"].items() if name in names}
        self.tensors = {
            names[name]: stored for file, header in headers.items() for name, stored in tensors_of(file, header).items()
        }

    def read(self, name: str, shape: tuple[int, ...], start: int, count: int) -> torch.Tensor:
        """Returns elements start..start+count of tensor `name`, row-major, as fp32 [count]."""
        if self.fresh is not None and name in self.new:
            return self.fresh.read(name, shape, start, count)
        stored = self.tensors.get(name)
        if stored is None or stored.shape != shape:
            raise RuntimeError(f"{self.folder} has no tensor {name} of shape {list(shape)}")
        return stored.read(start, count)


class TrainedWeights:
    """The weights of a run: trained ones from a checkpoint, frozen ones from the base model."""

    def __init__(
        self,
        checkpoint: SavedWeights,
        model: PreTrainedModel,
        base: WeightSource,
        scale: float = 0.0,
        computed_in: torch.dtype = torch.float32,
        task: Task = CAUSAL_LM,
    ) -> None:
        """model: the base model on the meta device. scale: of the adapters. computed_in: dtype of the live model.

        RuntimeError when checkpoint and model have different parameters.
        """
        self.checkpoint, self.model, self.base, self.scale = checkpoint, model, base, scale
        self.computed_in, self.task = computed_in, task
        self.trained = set(checkpoint.names)
        known = {name for name, _ in model.named_parameters()}
        adapted = {name.removesuffix(end) + ".weight" for name in self.trained for end in (A, B) if name.endswith(end)}
        own = {name for name in self.trained if not is_adapter(name)}
        unknown = sorted(own - known | adapted - known)
        unread = sorted(known - own) if own and not adapted else []
        if unknown or unread:
            name = (unknown or unread)[0]
            raise RuntimeError(f"{checkpoint.folder} and the model do not have the same parameters: {name}")

    @property
    def has_adapters(self) -> bool:
        return any(map(is_adapter, self.trained))

    def tolerance(self, dtype: torch.dtype) -> float:
        """Returns the allowed distance to the live model's logits in `dtype`, as a share of the largest logit."""
        exact = dtype == self.computed_in == torch.float32
        return 1e-6 if exact else 2**-6  # bf16: a few roundings of 2**-8

    def whole(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Returns the parameter `name` in fp32, with its adapter merged."""
        source = self.checkpoint if name in self.trained else self.base
        weight = source.read(name, shape, 0, prod(shape)).view(shape)
        layer = name.removesuffix(".weight")
        return weight + self._adapter(layer) if layer + A in self.trained else weight

    def _adapter(self, layer: str) -> torch.Tensor:
        a, b = (self.adapter(layer + end) for end in (A, B))
        change = b @ a * self.scale
        return change.T if isinstance(self.model.get_submodule(layer), Conv1D) else change

    def adapter(self, name: str) -> torch.Tensor:
        """Returns a parameter of an adapter in fp32."""
        shape = self.checkpoint.shape(name)
        return self.checkpoint.read(name, shape, 0, prod(shape)).view(shape)


_CONFIG, _GENERATION, _TOKENIZER = "config.json", "generation_config.json", "tokenizer_config.json"
_TEMPLATE = "chat_template.jinja"
_NOT_EXPORTED = ("auto_map", "quantization_config", "_name_or_path")  # they refer to files that are not exported
_TOKENIZERS_OF_5 = ("TokenizersBackend",)  # classes that transformers 4 lacks


def write_config(model: PreTrainedModel, base_dir: Path | None, dtype: torch.dtype, folder: Path) -> list[str]:
    """Writes a config.json that transformers 4 and 5 read alike; returns notes for the model card.

    base_dir: the folder of the base model, whose config may have keys of version 4 that version 5 does not write.
    """
    config, kind = model.config, type(model.config)
    config.dtype = dtype
    config.save_pretrained(folder)
    new = {key: value for key, value in _read(folder / _CONFIG).items() if key not in _NOT_EXPORTED}
    new["architectures"] = [type(model).__name__]  # not that of the base, which may have had another head
    old = _read(base_dir / _CONFIG) if base_dir else {}
    of_base = {key: value for key, value in old.items() if value is not None and key not in _NOT_EXPORTED}
    of_4 = _as_in_4(new) | of_base | {"torch_dtype": new["dtype"]}
    both = new | {key: value for key, value in of_4.items() if new.get(key) is None}
    read, read_both = (
        kind.from_dict(deepcopy(each)).to_dict() for each in (new, both)
    )  # from_dict changes its argument
    is_read_alike = read == {key: read_both.get(key) for key in read}
    _write(folder / _CONFIG, both if is_read_alike else new)
    version = f"config.json needs transformers {new['transformers_version']} or newer"
    return [] if is_read_alike else [version]


def _as_in_4(values: Settings) -> Settings:
    """Returns the rotary parameters under the keys of transformers 4."""
    rope = values.get("rope_parameters") or {}
    is_nested = bool(rope) and all(isinstance(each, dict) for each in rope.values())  # by layer type
    main = rope.get("full_attention", {}) if is_nested else rope
    local = rope.get("sliding_attention", {}) if is_nested else {}
    if "rope_theta" not in main:
        return {}
    found: Settings = {"rope_theta": main["rope_theta"]}
    rest = {key: value for key, value in main.items() if key not in ("rope_theta", "partial_rotary_factor")}
    found["rope_scaling"] = rest if rest.get("rope_type", "default") != "default" else None
    if "partial_rotary_factor" in main:
        found["partial_rotary_factor"] = main["partial_rotary_factor"]
    if local.get("rope_theta", main["rope_theta"]) != main["rope_theta"]:
        found["rope_local_base_freq"] = local["rope_theta"]
    return found


def write_generation(model: PreTrainedModel, base_dir: Path | None, ends: Iterable[int], folder: Path) -> list[str]:
    """Writes generation_config.json: that of the base model, with `ends` added to its stop tokens; returns warnings.

    Without a base model's file, it is made from config.json as transformers does.
    """
    of_config = GenerationConfig.from_model_config(model.config).to_diff_dict()
    of_config.pop("_from_model_config", None)  # with it, transformers would rebuild the file from config.json
    file = base_dir / _GENERATION if base_dir else None
    values, warnings = of_config, list[str]()
    if file is not None and file.is_file():
        try:
            values = _read(file)
            GenerationConfig.from_dict(values).validate(strict=True)
        except ValueError as error:
            reason = str(error).strip().splitlines()[0]
            use = "Made from config.json instead" if values is of_config else "Copied unchanged"
            warnings.append(f"{file}: transformers would not save it: {reason} {use}.")
    stops = _ids(values.get("eos_token_id")) or _ids(of_config.get("eos_token_id"))
    stops += [token for token in dict.fromkeys(ends) if token not in stops]
    if stops != _ids(values.get("eos_token_id")):
        values = values | {"eos_token_id": stops if len(stops) > 1 else stops[0]}
        _write(folder / _GENERATION, values)
    elif values is of_config or file is None:
        _write(folder / _GENERATION, values)
    else:
        shutil.copyfile(file, folder / _GENERATION)
    return warnings


def stop_ids(folder: Path) -> list[int]:
    """Returns the ids of the stop tokens of the model in `folder`."""
    return _ids(GenerationConfig.from_pretrained(folder).eos_token_id)


def _ids(value: Any) -> list[int]:
    return [] if value is None else [int(each) for each in (value if isinstance(value, list) else [value])]


def write_tokenizer(tokenizer_dir: Path | None, template: str | None, folder: Path) -> list[str]:
    """Writes the tokenizer with the chat template that rows were rendered with; returns notes for the model card.

    Files are copied byte for byte; where the template differs from the tokenizer's own, only the template changes.
    tokenizer_dir: None for the byte tokenizer of tiny models. template: None for no template.
    """
    if tokenizer_dir is None:
        byte_tokenizer().save_pretrained(folder)
        _write(folder / _TOKENIZER, _settings(folder) | {"tokenizer_class": "PreTrainedTokenizerFast"})
    else:
        _copy(tokenizer_dir, folder)
    if template != own_template(folder):
        _put_template(template, folder)
    name = _settings(folder).get("tokenizer_class")
    return [f"tokenizer_config.json needs transformers 5: tokenizer_class {name}"] if name in _TOKENIZERS_OF_5 else []


def own_template(tokenizer_dir: Path) -> str | None:
    """Returns the default chat template of the tokenizer in a folder; None without one."""
    file = tokenizer_dir / _TEMPLATE
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = _settings(tokenizer_dir).get("chat_template")
    return {each["name"]: each["template"] for each in found}.get("default") if isinstance(found, list) else found


def _copy(tokenizer_dir: Path, folder: Path) -> None:
    has_code = "auto_map" in _settings(tokenizer_dir)
    for pattern in (*TOKENIZER_FILES, *TEMPLATE_FILES, *(["*.py"] if has_code else [])):
        for file in tokenizer_dir.glob(pattern):
            if file.is_file():
                target = folder / file.relative_to(tokenizer_dir)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, target)


def _put_template(template: str | None, folder: Path) -> None:
    """Makes `template` the only template of `folder`, in both places where readers look for it."""
    for pattern in TEMPLATE_FILES:
        for file in folder.glob(pattern):
            file.unlink()
    settings = _settings(folder)
    settings.pop("chat_template", None)
    if template is not None:
        (folder / _TEMPLATE).write_text(template, encoding="utf-8", newline="")
        settings["chat_template"] = template
    _write(folder / _TOKENIZER, settings)


def _settings(folder: Path) -> Settings:
    file = folder / _TOKENIZER
    return _read(file) if file.is_file() else {}


def _read(file: Path) -> Settings:
    values = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{file.name} is not a JSON object.")
    return values


def _write(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


FILE_BYTES = 4 * 2**30
MERGED = 4  # factor of the tolerance for merged adapters: (W + BA)x rounds differently from Wx + BAx


def write_huggingface(
    weights: TrainedWeights, dtype: torch.dtype, folder: Path, base_dir: Path | None = None, ends: Iterable[int] = ()
) -> tuple[list[str], list[str]]:
    """Writes config, generation settings and weights cast to `dtype`; returns notes for the model card, and warnings.

    base_dir: the folder of the base model, None without one. ends: ids of the tokens that end the trained texts.
    RuntimeError when the written folder does not open, or does not match the live model.
    """
    notes, warnings = write_config(weights.model, base_dir, dtype, folder), list[str]()
    if weights.task is CAUSAL_LM:
        warnings = write_generation(weights.model, base_dir, ends, folder)
    _write_weights(weights, dtype, folder)
    verify(folder, weights, dtype)
    return notes, warnings


def verify(folder: Path, weights: TrainedWeights, dtype: torch.dtype) -> None:
    """Raises RuntimeError unless `folder` opens without missing or unknown tensors, and its weights are exact.

    Where the checkpoint has a probe, the outputs must match it too.
    """
    auto_class: Any = getattr(transformers, weights.task.model_class)
    opened: Any = auto_class.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    model, info = opened
    wrong = {key: sorted(map(str, info[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if any(wrong.values()):
        raise RuntimeError(f"{folder} opens with wrong tensors: {json.dumps({k: v for k, v in wrong.items() if v})}")
    for name, parameter in model.named_parameters():
        if not torch.equal(parameter.detach(), weights.whole(name, tuple(parameter.shape)).to(dtype)):
            raise RuntimeError(f"{folder}: {name} differs from the checkpoint")
    tolerance = weights.tolerance(dtype) * (MERGED if weights.has_adapters else 1)
    if weights.checkpoint.is_mean:
        return
    stops = stop_ids(folder) if (folder / _GENERATION).is_file() else []
    check_live(model, weights.checkpoint.folder, tolerance, stops)


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
    """Yields the names of the weights of each file, at most FILE_BYTES or a single tensor."""
    names, size = [], 0
    for name, parameter in parameters.items():
        more = parameter.numel() * dtype.itemsize
        if names and size + more > FILE_BYTES:
            yield names
            names, size = [], 0
        names, size = [*names, name], size + more
    yield names
