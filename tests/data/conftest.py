"""Shared by the data tests: the config of a data stage, files of rows, and tokenizers with stock templates."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from distft.data.tokenize import byte_tokenizer

settings.register_profile("loaded machine", deadline=None)
settings.load_profile("loaded machine")

TEMPLATES = Path(__file__).parent / "templates"

# begin token, end token and the other special tokens of each family, as far as its template needs them
FAMILIES: dict[str, tuple[str | None, str, list[str]]] = {
    "gemma3": ("<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"]),
    "gpt_oss": (
        "<|startoftext|>",
        "<|return|>",
        ["<|start|>", "<|end|>", "<|message|>", "<|channel|>"],
    ),
    "llama2": ("<s>", "</s>", []),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>"]),
    "llama3_1": ("<|begin_of_text|>", "<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>"]),
    "mistral": ("<s>", "</s>", []),
    "phi3": ("<s>", "<|endoftext|>", ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]),
    "phi4": ("<|endoftext|>", "<|im_end|>", ["<|im_start|>", "<|im_sep|>"]),
    "qwen3": (None, "<|im_end|>", ["<|im_start|>", "<|endoftext|>", "<think>", "</think>"]),
    "smollm2": ("<|im_start|>", "<|im_end|>", []),
    "zephyr": ("<s>", "</s>", []),
}


def family_tokenizer(family: str) -> Any:
    """The byte tokenizer with the special tokens and the stock template (without its tools) of a model family."""
    bos, eos, others = FAMILIES[family]
    tokenizer = byte_tokenizer()
    named = {"eos_token": eos, "pad_token": eos} | ({"bos_token": bos} if bos else {})
    tokenizer.add_special_tokens({**named, "additional_special_tokens": others})
    tokenizer.chat_template = (TEMPLATES / f"{family}.jinja").read_text()
    return tokenizer


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Gives `write_rows(rows, name) -> path` of a JSONL file."""

    def write(rows: list[Any], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Gives `config(train, key=value ...)`: the values of a run with the byte tokenizer; keys are those of data."""

    def values(train: Path | list[Path] | str, **data: Any) -> dict[str, Any]:
        keys = {
            "train": [str(path) for path in train] if isinstance(train, list) else str(train),
            "eval": None,
            "split": None,
            "eval_split": None,
            "subset": None,
            "revision": None,
            "split_seed": 0,
            "overlap": "warn",
            "format": "auto",
            "fields": {},
            "ignore_fields": [],
            "max_length": 256,
            "chat_template": "auto",
            "seed_date": "2024-07-26",
            "packing": False,
            "shards": None,
            "max_bad_fraction": 0.0,
            "max_truncated_fraction": 0.5,
            "max_untrained_fraction": 1.0,
        }
        model = {"path": "nowhere/model", "revision": None, "tokenizer": None, "tiny": True, "trust_remote_code": False}
        return {"cache_dir": str(tmp_path / "cache"), "seed": 0, "model": model, "data": keys | data}

    return values
