"""The files beside the weights of a Hugging Face folder: config.json, generation_config.json, tokenizer, chat template.

They are those of the base model. Only what training has decided is changed in them: the dtype, the chat template that
the rows were rendered with, and the tokens that an answer ends with.
Trap: what transformers 5 saves, transformers 4 misreads in silence: it looks for rope_theta and rope_scaling at the top
level, and takes 10,000 and none where they are not. So nothing is saved anew that can be copied.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from distft.data.key import TEMPLATE_FILES, TOKENIZER_FILES
from distft.data.tokenizers import byte_tokenizer

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
