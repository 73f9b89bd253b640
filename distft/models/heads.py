"""Heads: the outputs of a model for each unit of the loss, [U, C], for packed rows of any task.

The base model runs over the packed row; the head only over the tokens that are read. Those are the last token of a
document for a decoder that classifies rows, the first one for an encoder (through its pooler, where it has one), and
each labelled token in token classification. transformers' own classes read the same tokens of a padded batch.

Trap: an encoder's pooler reads the first token of the row that it gets, and a packed row has a first token per
document. So it runs here once more, on all first tokens; what the base model's own call gives is not used.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from distft.data.batches import Batch
from distft.tensors.streaming import names_in_model
from distft.tensors.weight_files import headers

Fold = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], Any]  # hidden states [T, H], weight [V, H], bias [V]
_HEADS = ("score", "classifier")  # of transformers' classes: of decoders, of encoders
_BEFORE = "pre_classifier"  # DistilBERT's: a linear layer and ReLU before the head
_AROUND = ("dropout", _BEFORE)  # what may stand between a base model and its head


class Head(nn.Linear):
    """A linear layer whose forward, given `fold`, returns `fold(hidden states, weight, bias)`, such as a fused loss."""

    def forward(self, input: torch.Tensor, fold: Fold | None = None) -> Any:
        return super().forward(input) if fold is None else fold(input, self.weight, self.bias)


def make_foldable(model: PreTrainedModel) -> None:
    """Turns the head of a language model into a Head, keeping names, weights and hooks; raises ValueError if it is not
    linear."""
    head: Any = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise ValueError(f"{type(model).__name__} has a {type(head).__name__} as head; only linear heads are supported")
    head.__class__ = Head


def check_head(model: PreTrainedModel) -> None:
    """Raises ValueError for a classification model with a head that `outputs` cannot run."""
    name = head_name(model)
    children = {child for child, _ in model.named_children()}
    others = sorted(children - {model.base_model_prefix, name or "", *_AROUND})
    if name is None or others:
        found = ", ".join(others or sorted(children)) or "nothing"
        raise ValueError(
            f"{type(model).__name__} has {found} between the base model and the outputs; supported are one head, "
            f"named {' or '.join(_HEADS)}, and dropout"
        )


def is_new(model: PreTrainedModel, name: str) -> bool:
    """Returns whether a language model's or an encoder's folder may lack a parameter: that of a classification head."""
    if model.get_output_embeddings() is not None:
        return False
    return not name.startswith(f"{model.base_model_prefix}.") or ".pooler." in name


def new_weights(model: PreTrainedModel, folder: Path) -> set[str]:
    """Returns the parameters of the head that the model in `folder` does not have in their shape."""
    heads = {name: list(parameter.shape) for name, parameter in model.named_parameters() if is_new(model, name)}
    if not heads:
        return set()
    entries = headers(folder)
    there = {name: entries[stored]["shape"] for stored, name in names_in_model(model, entries).items()}
    return {name for name, shape in heads.items() if there.get(name) != shape}


def reads_tokens(model: nn.Module) -> bool:
    """Returns whether a classification model gives an output for each token, rather than for each row."""
    return type(model).__name__.endswith("ForTokenClassification")


def head_name(model: nn.Module) -> str | None:
    """Returns the name of the head of a classification model: of the modules that tuning adds to the base model."""
    return next((name for name in _HEADS if isinstance(getattr(model, name, None), nn.Module)), None)


def head_layers(model: nn.Module) -> list[str]:
    """Returns the names of the layers between a classification model's base model and its outputs, without dropout."""
    names = (_BEFORE, head_name(model))
    return [name for name in names if name and isinstance(getattr(model, name, None), nn.Module)]


def language_head(model: nn.Module) -> Head | None:
    """Returns the head of a language model; None of a classification model."""
    found: Any = model
    head = found.get_output_embeddings()
    return head if isinstance(head, Head) else None


def first_position(model: Any) -> int:
    """Returns the position id of a document's first token: of the RoBERTa family the one after its padding's."""
    embeddings: Any = getattr(model.base_model, "embeddings", None)
    if not hasattr(embeddings, "create_position_ids_from_input_ids"):
        return 0
    return int(embeddings.padding_idx) + 1


def outputs(model: nn.Module, batch: Batch, at: torch.Tensor | None = None) -> torch.Tensor:
    """Returns the outputs of a classification model for each unit of the batch, fp32 [U, C].

    at: the tokens to read instead, int64 [U], indices into S; None: those of the units.
    """
    found: Any = model
    inputs = batch.inputs()
    inputs["position_ids"] = inputs["position_ids"] + first_position(found)
    hidden = found.base_model(**inputs).last_hidden_state[0]  # [S, H]
    name = head_name(model)
    assert name is not None, "see check_head"
    head = getattr(found, name)
    if at is None:
        reads_first = name == "classifier" and type(model).__name__.endswith("ForSequenceClassification")
        at = batch.starts[: batch.num_targets].long() if reads_first else batch.positions
    hidden = hidden[at]  # [U, H]
    pooler = getattr(found.base_model, "pooler", None)
    if pooler is not None:
        hidden = pooler(hidden[:, None])
    if isinstance(before := getattr(found, _BEFORE, None), nn.Module):
        hidden = before(hidden).relu()
    if isinstance(getattr(found, "dropout", None), nn.Module):
        hidden = found.dropout(hidden)
    # a head of several layers takes the first token of [B, S, H] itself
    return (head(hidden) if isinstance(head, nn.Linear) else head(hidden[:, None])).float()
