"""An export opens with transformers alone and gives the live model's logits, for any strategy.

The files exported with the weights are the base model's: stop tokens, sampling, tokenizer, template, config of both
versions of transformers.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from distft.checkpoint.load import Checkpoint
from distft.checkpoint.probe import PROBE
from distft.checkpoint.weights import SavedWeights
from distft.data.tokenize import CHATML, byte_tokenizer
from distft.export.huggingface import (
    TrainedWeights,
    own_template,
    stop_ids,
    verify,
    write_config,
    write_generation,
    write_huggingface,
    write_tokenizer,
)
from distft.models.build import skeleton
from distft.models.init import FreshWeights
from tests.support.train_cases import tiny_model
from tests.support.trained import KEYS, LORA, LORA_KEYS, MAIN, MODELS, TIED, Key, checkpoint_of


def weights_of(checkpoint: Checkpoint, model: str) -> TrainedWeights:
    name, _, lora = model.partition("+")
    skeleton = tiny_model(name)
    scale = LORA["alpha"] / LORA["rank"] if lora else 0.0
    return TrainedWeights(SavedWeights([checkpoint]), skeleton, FreshWeights(skeleton, 0), scale)


# A checkpoint knows no strategy: one model of every strategy, and every model of one, prove what all of KEYS do.
FACTORS = [key for key in KEYS if key[2:] == (2, 2) and (key[1] == MAIN or key[0] == "fsdp")]
FACTORS += [("zero3", TIED, 3, 2), ("hsdp", MAIN, 4, 2)]
REST = [key for key in KEYS if key[2] > 1 and key not in FACTORS]


@pytest.mark.slow
@pytest.mark.parametrize("key", FACTORS, ids=lambda key: "-".join(map(str, key)))
def test_every_strategy_and_every_model_exports(key: Key, trained: Any, tmp_path: Path) -> None:
    assert_exports(key, trained, tmp_path)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("key", REST, ids=lambda key: "-".join(map(str, key)))
def test_every_other_checkpoint_exports(key: Key, trained_to_export: Any, tmp_path: Path) -> None:
    assert_exports(key, trained_to_export, tmp_path)


def assert_exports(key: Key, trained: Any, tmp_path: Path) -> None:
    checkpoint = Checkpoint(checkpoint_of(trained[key]))
    assert (checkpoint.folder / PROBE).is_file()
    write_huggingface(weights_of(checkpoint, key[1]), torch.float32, tmp_path / "final")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == model.config.tie_word_embeddings


@pytest.fixture
def exported(trained: Any, tmp_path: Path) -> tuple[Checkpoint, Path]:
    checkpoint = Checkpoint(checkpoint_of(trained["fsdp", MAIN, 2, 2]))
    write_huggingface(weights_of(checkpoint, MAIN), torch.float32, tmp_path / "final")
    return checkpoint, tmp_path / "final"


@pytest.mark.slow
def test_one_changed_weight_is_detected(exported: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = exported
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] += 1e-6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="model.norm.weight differs from the checkpoint"):
        verify(folder, weights_of(checkpoint, MAIN), torch.float32)


@pytest.mark.slow
def test_a_missing_tensor_is_detected(exported: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = exported
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"missing_keys.*lm_head.weight"):
        verify(folder, weights_of(checkpoint, MAIN), torch.float32)


@pytest.mark.slow
def test_logits_that_differ_from_the_live_model_are_detected(exported: Any, tmp_path: Path) -> None:
    checkpoint, folder = exported
    moved = tmp_path / "moved"
    shutil.copytree(checkpoint.folder, moved)
    tensors = load_file(moved / PROBE)
    tensors["logits"][0, 3, 7] += 1e-4
    save_file(tensors, moved / PROBE)
    with pytest.raises(RuntimeError, match="logits differ from the live model's"):
        verify(folder, weights_of(Checkpoint(moved), MAIN), torch.float32)


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_refused(trained: Any) -> None:
    checkpoint = Checkpoint(checkpoint_of(trained["fsdp", MAIN, 2, 2]))
    with pytest.raises(RuntimeError, match="do not have the same parameters"):
        weights_of(checkpoint, "gpt2")


@pytest.mark.slow
@pytest.mark.parametrize("key", LORA_KEYS, ids=lambda key: "-".join(map(str, key)))
def test_merged_adapters_are_a_whole_model(key: Key, trained: Any, tmp_path: Path) -> None:
    checkpoint = Checkpoint(checkpoint_of(trained[key]))
    write_huggingface(weights_of(checkpoint, key[1]), torch.float32, tmp_path / "final")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    change = next(model.parameters()).new_tensor(0.0)
    fresh = FreshWeights(tiny_model(key[1].removesuffix("+lora")), 0)
    for name, parameter in model.named_parameters():
        base = fresh.read(name, tuple(parameter.shape), 0, parameter.numel()).view(parameter.shape)
        change = torch.maximum(change, (parameter.detach() - base).abs().max())
    assert change > 1e-4, "the adapters are in it"


@pytest.mark.slow
def test_a_big_model_is_cut_into_files_with_an_index(trained: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("distft.export.huggingface.FILE_BYTES", 100_000)
    checkpoint = Checkpoint(checkpoint_of(trained["fsdp", MAIN, 2, 2]))
    write_huggingface(weights_of(checkpoint, MAIN), torch.float32, tmp_path / "final")
    assert len(list((tmp_path / "final").glob("model-*-of-*.safetensors"))) > 3
    AutoModelForCausalLM.from_pretrained(tmp_path / "final")


@pytest.mark.slow
def test_bf16_weights_are_the_live_weights_cast(trained: Any, tmp_path: Path) -> None:
    checkpoint = Checkpoint(checkpoint_of(trained["fsdp", MAIN, 2, 2]))
    (tmp_path / "half").mkdir()
    moved = shutil.copytree(checkpoint.folder, tmp_path / "moved")
    (moved / PROBE).unlink()  # the live model computed in fp32
    write_huggingface(weights_of(Checkpoint(moved), MAIN), torch.bfloat16, tmp_path / "final")
    stored = load_file(tmp_path / "final" / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    shape = tuple(stored[name].shape)
    expected = checkpoint.read(name, shape, 0, stored[name].numel()).view(shape).bfloat16()
    assert torch.equal(stored[name], expected)


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


def test_settings_that_cannot_be_saved_are_copied_with_a_warning(tmp_path: Path, final: Path) -> None:
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


def test_a_config_that_version_4_misreads_is_reported(tmp_path: Path, final: Path, monkeypatch: Any) -> None:
    """Here a base that says one thing in each spelling: then it is written as transformers 5 has it."""
    model = tiny_model(MAIN)
    put(tmp_path, "config.json", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}})
    [note] = write_config(model, tmp_path, torch.float32, final)
    assert note.startswith("config.json needs transformers 5.")
    assert AutoConfig.from_pretrained(final).rope_parameters == model.config.rope_parameters
