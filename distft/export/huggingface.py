"""A run as a Hugging Face folder: weights, tokenizer, generation config.

They are those of the base model. Only what training has decided is changed in them: the dtype, the chat template that
the rows were rendered with, and the tokens that an answer ends with.
Trap: what transformers 5 saves, transformers 4 misreads in silence: it looks for rope_theta and rope_scaling at the top
level, and takes 10,000 and none where they are not. So nothing is saved anew that can be copied.

Trap: a tied weight is one parameter, so it is written once under its first name; a file that names both is refused
by safetensors, and one that names the second is read as missing.
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
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from distft.checkpoint.chunks import save_tensors
from distft.checkpoint.load import Checkpoint
from distft.checkpoint.probe import check_live
from distft.data.key import TEMPLATE_FILES, TOKENIZER_FILES
from distft.data.tokenize import byte_tokenizer
from distft.models.adapters import A, B, is_adapter
from distft.tensors.safetensors import read_header, tensors_of
from distft.tensors.streaming import WeightSource, names_in_model
from distft.tensors.weight_files import weight_files


@contextmanager
def whole_or_nothing(out: Path) -> Iterator[Path]:
    """Gives a folder beside `out` to write to, which takes its name at the end and is gone after an error.

    Where the system refused, its OSError is what is raised: torch's writers hide a full disk behind another error.
    """
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        refused = next((each for each in _chain(error) if isinstance(each, OSError)), None)
        if refused in (None, error):
            raise
        raise refused from error
    partial.rename(out)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class BaseFolder:
    """The parameters of a model in a folder of safetensors files."""

    def __init__(self, folder: Path, model: PreTrainedModel) -> None:
        self.folder = folder
        headers = {folder / name: read_header(folder / name) for name in weight_files(folder)}
        names = names_in_model(model, [name for header in headers.values() for name in header["tensors"]])
        for header in headers.values():
            header["tensors"] = {name: entry for name, entry in header["tensors"].items() if name in names}
        self.tensors = {
            names[name]: stored for file, header in headers.items() for name, stored in tensors_of(file, header).items()
        }

    def read(self, name: str, shape: tuple[int, ...], start: int, count: int) -> torch.Tensor:
        """Returns elements start..start+count of tensor `name`, row-major, as fp32 [count]."""
        stored = self.tensors.get(name)
        if stored is None or stored.shape != shape:
            raise RuntimeError(f"{self.folder} has no tensor {name} of shape {list(shape)}")
        return stored.read(start, count)


class TrainedWeights:
    """The weights of a run: what it trained from a checkpoint, what it froze from the base model."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: PreTrainedModel,
        base: WeightSource,
        scale: float = 0.0,
        computed_in: torch.dtype = torch.float32,
    ) -> None:
        """model: the base model's skeleton. scale: of the adapters. computed_in: what the live model used.

        RuntimeError when checkpoint and model do not go together.
        """
        self.checkpoint, self.model, self.base, self.scale = checkpoint, model, base, scale
        self.computed_in = computed_in
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
        """Returns how far, of the largest, logits computed in `dtype` may be from the live model's."""
        exact = dtype == self.computed_in == torch.float32
        return 1e-6 if exact else 2**-6  # bf16: a few roundings of 2**-8

    def whole(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Returns the parameter `name` of the model, fp32; an adapter to it is added in."""
        source = self.checkpoint if name in self.trained else self.base
        weight = source.read(name, shape, 0, prod(shape)).view(shape)
        layer = name.removesuffix(".weight")
        return weight + self._adapter(layer) if layer + A in self.trained else weight

    def _adapter(self, layer: str) -> torch.Tensor:
        a, b = (self.adapter(layer + end) for end in (A, B))
        change = b @ a * self.scale
        return change.T if isinstance(self.model.get_submodule(layer), Conv1D) else change

    def adapter(self, name: str) -> torch.Tensor:
        """Returns a parameter that tuning added, fp32."""
        shape = self.checkpoint.shapes["parameter", name]
        return self.checkpoint.read(name, shape, 0, prod(shape)).view(shape)


_CONFIG, _GENERATION, _TOKENIZER = "config.json", "generation_config.json", "tokenizer_config.json"
_TEMPLATE = "chat_template.jinja"
_NOT_OF_FINAL = ("auto_map", "quantization_config", "_name_or_path")  # code and numbers that the folder does not hold
_YOUNG_TOKENIZERS = ("TokenizersBackend",)  # classes that transformers 4 has not


def write_config(model: PreTrainedModel, base_dir: Path | None, dtype: torch.dtype, folder: Path) -> list[str]:
    """Writes config.json so that transformers 4 and 5 read the same from it; returns what its reader has to know.

    base_dir: the folder of the base model, whose config has names of version 4 that version 5 does not write.
    """
    config, kind = model.config, type(model.config)
    config.dtype = dtype
    config.save_pretrained(folder)
    new = {key: value for key, value in _read(folder / _CONFIG).items() if key not in _NOT_OF_FINAL}
    new["architectures"] = new.get("architectures") or [type(model).__name__]
    old = _read(base_dir / _CONFIG) if base_dir else {}
    of_base = {key: value for key, value in old.items() if value is not None and key not in _NOT_OF_FINAL}
    of_4 = _as_in_4(new) | of_base | {"torch_dtype": new["dtype"]}
    both = new | {key: value for key, value in of_4.items() if new.get(key) is None}
    read, read_both = (kind.from_dict(deepcopy(each)).to_dict() for each in (new, both))  # it changes what it reads
    is_read_alike = read == {key: read_both.get(key) for key in read}
    _write(folder / _CONFIG, both if is_read_alike else new)
    version = f"config.json needs transformers {new['transformers_version']} or newer"
    return [] if is_read_alike else [version]


def _as_in_4(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns rotary parameters under the names of transformers 4."""
    rope = values.get("rope_parameters") or {}
    is_nested = bool(rope) and all(isinstance(each, dict) for each in rope.values())  # by kind of layer
    main = rope.get("full_attention", {}) if is_nested else rope
    local = rope.get("sliding_attention", {}) if is_nested else {}
    if "rope_theta" not in main:
        return {}
    found: dict[str, Any] = {"rope_theta": main["rope_theta"]}
    rest = {key: value for key, value in main.items() if key not in ("rope_theta", "partial_rotary_factor")}
    found["rope_scaling"] = rest if rest.get("rope_type", "default") != "default" else None
    if "partial_rotary_factor" in main:
        found["partial_rotary_factor"] = main["partial_rotary_factor"]
    if local.get("rope_theta", main["rope_theta"]) != main["rope_theta"]:
        found["rope_local_base_freq"] = local["rope_theta"]
    return found


def write_generation(model: PreTrainedModel, base_dir: Path | None, ends: Iterable[int], folder: Path) -> list[str]:
    """Writes generation_config.json: the base's, every stop token of it, and `ends` among these; returns warnings.

    Without one of the base's it is what transformers makes of config.json.
    """
    of_config = GenerationConfig.from_model_config(model.config).to_diff_dict()
    of_config.pop("_from_model_config", None)  # transformers would make it anew from config.json
    file = base_dir / _GENERATION if base_dir else None
    values, warnings = of_config, list[str]()
    if file is not None and file.is_file():
        try:
            values = _read(file)
            GenerationConfig.from_dict(values).validate(strict=True)
        except ValueError as error:
            reason = str(error).strip().splitlines()[0]
            use = "It is made anew from config.json" if values is of_config else "It is copied as it is"
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
    """Returns the tokens that end an answer of the model in `folder`."""
    return _ids(GenerationConfig.from_pretrained(folder).eos_token_id)


def _ids(value: Any) -> list[int]:
    return [] if value is None else [int(each) for each in (value if isinstance(value, list) else [value])]


def write_tokenizer(tokenizer_dir: Path | None, template: str | None, folder: Path) -> list[str]:
    """Writes the tokenizer with the chat template that rows were rendered with, None for none; returns what its reader
    has to know.

    Files are copied byte for byte; for another template than the tokenizer's own only what says the template changes.
    tokenizer_dir: None for the byte tokenizer of tiny models.
    """
    if tokenizer_dir is None:
        byte_tokenizer().save_pretrained(folder)
        _write(folder / _TOKENIZER, _settings(folder) | {"tokenizer_class": "PreTrainedTokenizerFast"})
    else:
        _copy(tokenizer_dir, folder)
    if template != own_template(folder):
        _put_template(template, folder)
    word = _settings(folder).get("tokenizer_class")
    return [f"tokenizer_config.json needs transformers 5: tokenizer_class {word}"] if word in _YOUNG_TOKENIZERS else []


def own_template(tokenizer_dir: Path) -> str | None:
    """Returns the chat template of the tokenizer in a folder, the default one of several; None without one."""
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
    """Makes `template` the one template of `folder`, in both places where readers look for it."""
    for pattern in TEMPLATE_FILES:
        for file in folder.glob(pattern):
            file.unlink()
    settings = _settings(folder)
    settings.pop("chat_template", None)
    if template is not None:
        (folder / _TEMPLATE).write_text(template, encoding="utf-8", newline="")
        settings["chat_template"] = template
    _write(folder / _TOKENIZER, settings)


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / _TOKENIZER
    return _read(file) if file.is_file() else {}


def _read(file: Path) -> dict[str, Any]:
    values = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{file.name} is not a JSON object.")
    return values


def _write(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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
