"""An export opens with transformers alone and says what the live model said, whatever strategy trained it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from distft.checkpoint.load import Checkpoint
from distft.checkpoint.probe import PROBE
from distft.export.huggingface import TrainedWeights, verify, write_huggingface
from distft.models.init import FreshWeights
from tests.support.train_cases import tiny_model
from tests.support.trained import KEYS, LORA, LORA_KEYS, MAIN, Key, checkpoint_of

pytestmark = pytest.mark.slow


def weights_of(checkpoint: Checkpoint, model: str) -> TrainedWeights:
    name, _, lora = model.partition("+")
    skeleton = tiny_model(name)
    scale = LORA["alpha"] / LORA["rank"] if lora else 0.0
    return TrainedWeights(checkpoint, skeleton, FreshWeights(skeleton, 0), scale)


@pytest.mark.parametrize("key", [key for key in KEYS if key[2] > 1], ids=lambda key: "-".join(map(str, key)))
def test_every_strategys_checkpoint_of_every_model_exports(key: Key, trained: Any, tmp_path: Path) -> None:
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


def test_one_changed_weight_is_noticed(exported: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = exported
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] += 1e-6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="model.norm.weight is not the checkpoint's"):
        verify(folder, weights_of(checkpoint, MAIN), torch.float32)


def test_a_missing_tensor_is_noticed(exported: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = exported
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"missing_keys.*lm_head.weight"):
        verify(folder, weights_of(checkpoint, MAIN), torch.float32)


def test_logits_that_the_live_model_did_not_give_are_noticed(exported: Any, tmp_path: Path) -> None:
    checkpoint, folder = exported
    moved = tmp_path / "moved"
    shutil.copytree(checkpoint.folder, moved)
    tensors = load_file(moved / PROBE)
    tensors["logits"][0, 3, 7] += 1e-4
    save_file(tensors, moved / PROBE)
    with pytest.raises(RuntimeError, match="logits differ from the live model's"):
        verify(folder, weights_of(Checkpoint(moved), MAIN), torch.float32)


def test_a_checkpoint_of_another_model_is_refused(trained: Any) -> None:
    checkpoint = Checkpoint(checkpoint_of(trained["fsdp", MAIN, 2, 2]))
    with pytest.raises(RuntimeError, match="do not have the same parameters"):
        weights_of(checkpoint, "gpt2")


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


def test_a_big_model_is_cut_into_files_with_an_index(trained: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("distft.export.huggingface.FILE_BYTES", 100_000)
    checkpoint = Checkpoint(checkpoint_of(trained["fsdp", MAIN, 2, 2]))
    write_huggingface(weights_of(checkpoint, MAIN), torch.float32, tmp_path / "final")
    assert len(list((tmp_path / "final").glob("model-*-of-*.safetensors"))) > 3
    AutoModelForCausalLM.from_pretrained(tmp_path / "final")


def test_bf16_weights_are_the_live_ones_cast(trained: Any, tmp_path: Path) -> None:
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
