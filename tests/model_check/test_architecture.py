"""A base model is refused before a run if it would not train like its own class or its files do not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    CohereConfig,
    DistilBertConfig,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    ModernBertConfig,
    ModernBertDecoderConfig,
    RobertaConfig,
    XLMRobertaConfig,
)
from transformers.models.llama import modeling_llama

from distft.model_check import verdict
from distft.model_check.architecture import check_classifier, check_config, check_folder
from distft.models.build import architecture, skeleton
from distft.strategies.engine import Piece
from distft.tasks import load_task
from distft.tensors.regions import Flat
from distft.tensors.streaming import folder_chunks, stream
from tests.support.alone import alone

SMALL: dict[str, Any] = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
Weights = dict[str, torch.Tensor]


def reason(config: Any) -> str:
    found, _ = check_config(config)
    [text] = found["wrong"]
    assert "Try: " in text
    return text


def test_a_llama_agrees_with_its_class() -> None:
    found, _ = check_config(LlamaConfig(**SMALL, intermediate_size=48))
    assert found["wrong"] == [] and found["difference"] <= 1e-5 and found["other"] == 0
    assert found["loss"] > 4.6, "the weights are drawn so that every one is felt"


def test_an_encoder_is_detected_by_what_a_token_attends_to() -> None:
    assert "BertLMHeadModel is an encoder" in reason(BertConfig(**SMALL, intermediate_size=48))


ENCODERS = [
    BertConfig(**SMALL, **IDS, intermediate_size=48),
    RobertaConfig(**SMALL, **IDS, intermediate_size=48, type_vocab_size=1),
    XLMRobertaConfig(**SMALL, pad_token_id=1, bos_token_id=0, eos_token_id=2, intermediate_size=48),
    DistilBertConfig(vocab_size=96, dim=32, n_layers=2, n_heads=4, hidden_dim=48, pad_token_id=0),
]


@pytest.mark.parametrize("config", ENCODERS, ids=lambda config: config.model_type)
@pytest.mark.parametrize("task", ["sequence_classification", "token_classification", "regression"])
def test_an_encoder_classifies_packed_rows_like_its_class(config: Any, task: str) -> None:
    found, model = check_classifier(config, load_task(task))
    assert found["wrong"] == [] and model is not None


def test_an_encoder_with_windows_is_refused() -> None:
    config = ModernBertConfig(**SMALL, **IDS, intermediate_size=48, cls_token_id=1, sep_token_id=2, local_attention=4)
    found, _ = check_classifier(config, load_task("sequence_classification"))
    assert "Try: " in found["wrong"][0]


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(**SMALL, intermediate_size=48, is_decoder=True),
        ModernBertDecoderConfig(**SMALL, **IDS, intermediate_size=48, cls_token_id=1, sep_token_id=2),
    ],
    ids=["bert as a decoder", "modernbert-decoder"],
)
def test_a_head_of_several_layers_is_refused(config: Any) -> None:
    assert "more than one linear layer" in reason(config)


def test_layers_that_drop_document_borders_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, plain = modeling_llama.LlamaDecoderLayer, modeling_llama.LlamaDecoderLayer.forward

    def forgetful(self: Any, hidden: torch.Tensor, attention_mask: Any = None, **given: Any) -> Any:
        kept = {name: given[name] for name in ("position_ids", "position_embeddings") if name in given}
        return plain(self, hidden, attention_mask=attention_mask, **kept)

    monkeypatch.setattr(layer, "forward", forgetful)
    assert "does not separate packed documents" in reason(LlamaConfig(**SMALL, intermediate_size=48))


def test_a_state_space_model_is_refused() -> None:
    assert "MambaForCausalLM does not use transformers' attention" in reason(
        MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=1)
    )


@pytest.mark.slow
def test_unused_weights_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = modeling_llama.LlamaModel.__init__

    def wider(self: Any, config: Any) -> None:
        plain(self, config)
        self.picture = torch.nn.Linear(2, 2)

    monkeypatch.setattr(modeling_llama.LlamaModel, "__init__", wider)
    assert "without a gradient on text: model.picture.weight and 1 more" in reason(
        LlamaConfig(**SMALL, intermediate_size=48)
    )


def saved(folder: Path, kind: str = "llama", change: Callable[[Weights], Weights] = dict, **facts: Any) -> Path:
    """Writes a small model with other weights or another config.json than it has."""
    sizes = SMALL | {"intermediate_size": 48} if kind == "llama" else {"n_embd": 32, "n_layer": 2, "n_head": 4}
    model = AutoModelForCausalLM.from_config(architecture(None, {"model_type": kind, **sizes, "vocab_size": 96, **IDS}))
    model.save_pretrained(folder)
    weights = change(load_file(folder / "model.safetensors"))
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    written = json.loads((folder / "config.json").read_text()) | facts
    (folder / "config.json").write_text(json.dumps(written))
    return folder


def head_alone(weights: Weights) -> Weights:
    return {{"model.embed_tokens.weight": "lm_head.weight"}.get(name, name): each for name, each in weights.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "facts", "said"),
    [
        (dict, {"intermediate_size": 64}, r"mlp.*weight is \[.*\] in the files and \[.*64.*\] by config.json"),
        (dict, {"num_hidden_layers": 3}, "9 of 30 weights of LlamaForCausalLM are missing, model.layers.2"),
        (dict, {"tie_word_embeddings": True}, "ties lm_head.weight to model.embed_tokens.weight, and in the files"),
        (lambda each: {n: w for n, w in each.items() if n != "lm_head.weight"}, {}, "lm_head.weight is not in the fil"),
    ],
    ids=["another width", "more layers", "tied in config alone", "tied in files alone"],
)
def test_files_that_do_not_fit_config_json_are_refused(change, facts, said: str, tmp_path: Path) -> None:
    found = check_folder(saved(tmp_path, change=change, **facts))
    with pytest.raises(AssertionError, match=said):
        assert not found["wrong"], found["wrong"][0]
    assert all("Try: " in each for each in found["wrong"])


@pytest.mark.slow
def test_tensors_ignored_in_the_files_are_reported(tmp_path: Path) -> None:
    found = check_folder(saved(tmp_path, num_hidden_layers=1))
    assert found["wrong"] == [] and found["notes"] == [
        "ignored, since the model does not have it: model.layers.1.input_layernorm.weight and 8 more"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "change", "facts"),
    [
        ("gpt2", lambda each: {name.removeprefix("transformer."): w for name, w in each.items()}, {}),
        ("llama", lambda each: {f"model.{name}": w for name, w in each.items()}, {}),
        (
            "llama",
            lambda each: head_alone({n: w for n, w in each.items() if n[0] == "m"}),
            {"tie_word_embeddings": True},
        ),
        ("gpt2", lambda each: each | {"transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool)}, {}),
    ],
    ids=["without the prefix", "with one too many", "the tied head alone", "with a mask of old"],
)
def test_renamed_weights_are_read_like_transformers_does(kind, change, facts, tmp_path: Path) -> None:
    folder = saved(tmp_path, kind, change, **facts)
    assert check_folder(folder)["wrong"] == []
    base = skeleton(architecture(folder, {}), "auto")
    wanted = dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).named_parameters())
    pieces = [
        Piece(name, tuple(each.shape), Flat(0, each.numel()), torch.full((each.numel(),), torch.nan))
        for name, each in base.named_parameters()
    ]
    with alone() as world:
        stream(folder_chunks(folder, world, base), pieces, world)
    assert len(pieces) == len(wanted)
    for piece in pieces:
        assert torch.equal(piece.data(), wanted[piece.name].detach().view(-1)), piece.name


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        GraniteConfig(**SMALL, **IDS, intermediate_size=48, logits_scaling=8.0, attention_multiplier=0.125),
        CohereConfig(**SMALL, **IDS, intermediate_size=48, logit_scale=0.0625),
    ],
    ids=["granite", "cohere"],
)
def test_scaled_logits_agree_with_their_class(config: Any) -> None:
    found, _ = check_config(config)
    assert found["wrong"] == [] and found["difference"] <= 1e-5


def test_a_cached_result_depends_on_existing_code_alone() -> None:
    files = {pattern: list(verdict.PACKAGE.glob(pattern)) for pattern in verdict.CODE}
    assert [pattern for pattern, found in files.items() if not found] == []
    assert verdict.PACKAGE / "model_check" / "live.py" in {file for found in files.values() for file in found}
