"""The files exported with the weights are the base model's: stop tokens, sampling, tokenizer, template, config of both
versions of transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from distft.data.tokenize import CHATML, byte_tokenizer
from distft.export.huggingface import own_template, stop_ids, write_config, write_generation, write_tokenizer
from distft.models.build import skeleton
from tests.support.train_cases import tiny_model
from tests.support.trained import MAIN, MODELS

LLAMA3 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}


def put(folder: Path, name: str, values: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(values if isinstance(values, str) else json.dumps(values))


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text())


@pytest.fixture
def final(tmp_path: Path) -> Path:
    (tmp_path / "final").mkdir()
    return tmp_path / "final"


def test_every_stop_token_and_the_sampling_of_the_base_are_kept(tmp_path: Path, final: Path) -> None:
    kept = {"eos_token_id": [2, 0], "do_sample": True, "temperature": 0.6, "top_p": 0.9}
    put(tmp_path, "generation_config.json", kept)
    assert write_generation(tiny_model(MAIN), tmp_path, [2], final) == []
    assert (final / "generation_config.json").read_bytes() == (tmp_path / "generation_config.json").read_bytes()
    assert write_generation(tiny_model(MAIN), tmp_path, [2, 257], final) == []
    assert read(final, "generation_config.json") == kept | {"eos_token_id": [2, 0, 257]}
    assert stop_ids(final) == [2, 0, 257]


@pytest.mark.parametrize("given", [{"eos_token_id": 2}, {"temperature": 1.0}, None], ids=["one", "none", "no file"])
def test_the_trained_end_of_turn_stops_a_base_model(given: dict[str, Any] | None, tmp_path: Path, final: Path) -> None:
    """Where generation_config.json names no stop token, config.json's is one."""
    model = tiny_model(MAIN)
    model.config.eos_token_id = 2
    if given is not None:
        put(tmp_path, "generation_config.json", given)
    write_generation(model, tmp_path, [257], final)
    assert stop_ids(final) == [2, 257]
    assert GenerationConfig.from_pretrained(final)._from_model_config is not True, (
        "or it would be made anew without 257"
    )


def test_settings_that_transformers_would_not_save_are_copied_with_a_warning(tmp_path: Path, final: Path) -> None:
    put(tmp_path, "generation_config.json", {"do_sample": False, "temperature": 0.6, "eos_token_id": 2})
    [warning] = write_generation(tiny_model(MAIN), tmp_path, [257], final)
    assert "generation_config.json: transformers would not save it: " in warning and "Copied unchanged" in warning
    assert read(final, "generation_config.json") == {"do_sample": False, "temperature": 0.6, "eos_token_id": [2, 257]}


@pytest.mark.parametrize("broken", ["{", "[1]"])
def test_unreadable_settings_are_rebuilt_with_a_warning(broken: str, tmp_path: Path, final: Path) -> None:
    put(tmp_path, "generation_config.json", broken)
    [warning] = write_generation(tiny_model(MAIN), tmp_path, [257], final)
    assert "Made from config.json" in warning and 257 in stop_ids(final)


def test_tokenizer_files_are_the_bases_byte_for_byte(tmp_path: Path, final: Path) -> None:
    base = tmp_path / "base"
    byte_tokenizer().save_pretrained(base)
    put(base, "special_tokens_map.json", '{"eos_token":   "<|im_end|>"}')
    put(base, "added_tokens.json", "{}\n\n")
    put(base, "tokenization_own.py", "raise SystemExit\n")
    put(base, "notes.txt", "of nobody's interest")
    assert write_tokenizer(base, CHATML, final) == [
        "tokenizer_config.json needs transformers 5: tokenizer_class TokenizersBackend"
    ]
    copied = {file.name for file in final.iterdir()}
    assert copied == {file.name for file in base.iterdir()} - {"notes.txt", "tokenization_own.py"}
    assert all((final / name).read_bytes() == (base / name).read_bytes() for name in copied)
    settings = read(base, "tokenizer_config.json") | {"auto_map": {"AutoTokenizer": ["tokenization_own.Own", None]}}
    put(base, "tokenizer_config.json", settings)
    write_tokenizer(base, CHATML, final)
    assert (final / "tokenization_own.py").is_file(), "tokenizer_config.json names it"


@pytest.mark.parametrize("template", ["own {{ messages }} é\n", None], ids=["own", "none"])
@pytest.mark.parametrize("place", ["file", "key", "several"])
def test_only_the_template_is_changed(template: str | None, place: str, tmp_path: Path, final: Path) -> None:
    """In all places where a reader may look for it: the file is transformers 5's, the key what older versions read."""
    base = tmp_path / "base"
    byte_tokenizer().save_pretrained(base)
    settings = read(base, "tokenizer_config.json")
    if place != "file":
        (base / "chat_template.jinja").unlink()
        several = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": "tools"}]
        put(base, "tokenizer_config.json", settings | {"chat_template": CHATML if place == "key" else several})
    put(base, "chat_template.json", {"chat_template": CHATML})
    assert own_template(base) == CHATML
    write_tokenizer(base, template, final)
    assert (final / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    there = {} if template is None else {"chat_template": template}
    assert read(final, "tokenizer_config.json") == settings | there
    assert {file.name for file in final.glob("chat_template*")} == ({"chat_template.jinja"} if there else set())
    assert AutoTokenizer.from_pretrained(final).chat_template == own_template(final) == template


def test_the_byte_tokenizer_is_opened_by_both_versions(final: Path) -> None:
    assert write_tokenizer(None, CHATML, final) == []
    assert read(final, "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert AutoTokenizer.from_pretrained(final)("ab")["input_ids"] == byte_tokenizer()("ab")["input_ids"]


@pytest.mark.parametrize("name", MODELS)
def test_both_versions_read_the_same_config(name: str, final: Path) -> None:
    model = tiny_model(name)
    assert write_config(model, None, torch.bfloat16, final) == []
    there, opened = read(final, "config.json"), AutoConfig.from_pretrained(final)
    changed = {key for key, value in model.config.to_dict().items() if opened.to_dict()[key] != value}
    assert changed <= {"architectures", "_name_or_path"}
    assert there["architectures"] == [type(model).__name__]
    assert there["dtype"] == there["torch_dtype"] == "bfloat16"
    rope = there.get("rope_parameters")
    if rope:
        main = rope.get("full_attention", rope)
        assert there["rope_theta"] == main["rope_theta"]
        assert (there["rope_scaling"] or {}).get("factor") == main.get("factor")
    if name == "gemma3_4b":
        assert there["rope_local_base_freq"] == rope["sliding_attention"]["rope_theta"] == 10_000


def test_a_config_of_version_4_keeps_its_own_names(tmp_path: Path, final: Path) -> None:
    """And loses what is not of the exported folder: code, and the numbers of a quantisation that it has not."""
    old = {
        "model_type": "llama", "vocab_size": 512, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3,
        "num_key_value_heads": 1, "intermediate_size": 96, "rope_theta": 500000.0, "rope_scaling": LLAMA3,
        "torch_dtype": "float16", "eos_token_id": 5, "auto_map": {"AutoModel": "own.Own"},
        "quantization_config": {"quant_method": "bitsandbytes"}, "transformers_version": "4.51.0",
    }  # fmt: skip
    put(tmp_path, "config.json", old)
    model = skeleton(AutoConfig.from_pretrained(tmp_path), "auto")
    assert write_config(model, tmp_path, torch.float32, final) == []
    there = read(final, "config.json")
    assert (there["rope_theta"], there["rope_scaling"]) == (500000.0, LLAMA3)
    assert there["rope_parameters"] == LLAMA3 | {"rope_theta": 500000.0}
    assert (there["torch_dtype"], there["eos_token_id"]) == ("float32", 5)
    assert not {"auto_map", "quantization_config"} & there.keys()
    assert AutoConfig.from_pretrained(final).rope_parameters == there["rope_parameters"]


def test_a_config_that_version_4_would_misread_says_so(tmp_path: Path, final: Path, monkeypatch: Any) -> None:
    """Here a base that says one thing in each spelling: then it is written as transformers 5 has it."""
    model = tiny_model(MAIN)
    put(tmp_path, "config.json", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}})
    [note] = write_config(model, tmp_path, torch.float32, final)
    assert note.startswith("config.json needs transformers 5.")
    assert AutoConfig.from_pretrained(final).rope_parameters == model.config.rope_parameters
