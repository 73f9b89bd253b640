"""An adapter folder opens with peft alone and gives the live model's logits, for any strategy."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file

from distft.checkpoint.load import Checkpoint
from distft.checkpoint.probe import read_probe
from distft.checkpoint.weights import SavedWeights
from distft.export.huggingface import TrainedWeights
from distft.export.peft import verify, write_peft
from distft.models.adapters import Lora
from distft.models.init import FreshWeights
from tests.support.reference import dense
from tests.support.train_cases import tiny_model
from tests.support.trained import LORA, LORA_KEYS, MAIN, Key, checkpoint_of

pytestmark = pytest.mark.slow


def export_adapters(answer: dict[str, Any], folder: Path) -> TrainedWeights:
    """Writes base model and adapters of a case into adjacent folders, as a user has them."""
    name = answer["case"]["model"]
    base, skeleton = dense(name, 0), tiny_model(name)
    base.save_pretrained(folder / "base")
    checkpoint = Checkpoint(checkpoint_of(answer))
    weights = TrainedWeights(SavedWeights([checkpoint]), skeleton, FreshWeights(skeleton, 0), Lora(**LORA).scale)
    write_peft(weights, Lora(**LORA), base, {"base_model_name_or_path": str(folder / "base")}, folder / "final")
    return weights


@pytest.mark.parametrize("key", LORA_KEYS, ids=lambda key: "-".join(map(str, key)))
def test_every_strategys_adapters_open_with_peft(key: Key, trained: Any, tmp_path: Path) -> None:
    weights = export_adapters(trained[key], tmp_path)
    kept = read_probe(weights.checkpoint.folder)
    input_ids, live = kept.input_ids, kept.logits
    model: Any = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "final")
    with torch.no_grad():
        logits = model.eval()(input_ids=input_ids).logits
        with model.disable_adapter():
            before = model(input_ids=input_ids).logits
    assert (logits - live).abs().max() <= 1e-6 * live.abs().max()
    assert (logits - before).abs().max() > 1e-4 * live.abs().max(), "the adapters do something"
    settings = json.loads((tmp_path / "final" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (LORA["rank"], LORA["alpha"])
    assert settings["fan_in_fan_out"] == ("gpt2" in key[1]), "its weights lie transposed"


def test_one_changed_element_is_detected(trained: Any, tmp_path: Path) -> None:
    weights = export_adapters(trained["fsdp", f"{MAIN}+lora", 2, 2], tmp_path)
    file = tmp_path / "final" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"][3, 1] += 1e-6
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"layers.1.mlp.up_proj.lora_B.weight differs from the checkpoint"):
        verify(tmp_path / "final", weights, dense(MAIN, 0))


def test_a_wrong_scale_is_detected(trained: Any, tmp_path: Path) -> None:
    weights = export_adapters(trained["fsdp", f"{MAIN}+lora", 2, 2], tmp_path)
    file = tmp_path / "final" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 16}))
    with pytest.raises(RuntimeError, match="logits differ from the live model's"):
        verify(tmp_path / "final", weights, dense(MAIN, 0))
