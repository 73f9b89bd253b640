"""Every loss of conf/loss on every task that takes it: rows with labels, and references in plain PyTorch.

A reference reads the rows of a step as one padded batch, with the transformers class of the task, and computes the loss
with torch's functions. A new YAML in conf/loss needs a reference here; without one its test fails.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from distft import worker
from distft.data.shards import Row, ShardWriter
from distft.models.init import FreshWeights
from distft.paths import conf_dir
from distft.tasks import load_task, task_names
from distft.tasks.labels import Labels
from tests.support.pair_objectives import OF_PAIRS, pair_loss, write_pairs
from tests.support.reference import InDouble, padded, train_on
from tests.support.taught_objectives import OF_DISTILLATION, distillation, write_taught
from tests.support.train_cases import ADAMW, config_of, plan_of

BERT = {"model_type": "bert", "num_key_value_heads": 4, "type_vocab_size": 2, "pad_token_id": 0, "hidden_act": "gelu"}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
SIZES = {"num_hidden_layers": 2, "vocab_size": 256, "pad_token_id": 0, **NO_DROPOUT}
LOSSES = sorted(path.stem for path in (conf_dir() / "loss").glob("*.yaml"))
PAIRS = [(word, task) for word in LOSSES for task in task_names() if word in load_task(task).losses]
TRAINED = [pair for pair in PAIRS if pair != ("cross_entropy", "causal_lm")]  # that is tests/strategies/test_parity.py
OF_LOSS: dict[str, dict[str, Any]] = {  # settings other than the defaults, which some losses do not differ in
    "cross_entropy": {"label_smoothing": 0.1, "z_loss": 1e-2, "class_weights": [1.0, 2.5, 0.5]},
    "huber": {"delta": 0.7},
    "bce": {"positive_weight": 2.0},
    **OF_PAIRS,
    **OF_DISTILLATION,
}


def labels_of(word: str, task: str) -> Labels:
    if task == "reward_model":
        return Labels("regression", 1)
    names = ("blue", "green", "red")
    kinds = {"values": Labels("regression", 2), "tags": Labels("single_label_classification", 3, names)}
    several = "multi_label_classification" if word == "bce" else "single_label_classification"
    return kinds.get(load_task(task).labels, Labels(several, 3, names))


def write_labelled(folder: Path, word: str, task: str, train: int = 40, held_out: int = 31) -> Path:
    """Writes rows of 4 to 23 random tokens with random labels, or pairs; every third row has a weight of its own."""
    if load_task(task).unit == "pair":
        return write_pairs(folder, word, train, held_out)
    if task == "causal_lm":
        return write_taught(folder, train, held_out)
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    for split, count in (("train", train), ("eval", held_out)):
        writer = ShardWriter(folder, split)
        for i in range(count):
            writer.add(labelled_row(random, word, task, i), f"{split}-{i}")
        writer.close()
    return folder


def labelled_row(random: np.random.Generator, word: str, task: str, number: int) -> Row:
    length = int(random.integers(4, 24))
    row = Row(random.integers(1, 256, length).astype(np.int32), np.arange(length) == length - 1)
    labels = labels_of(word, task)
    if task == "token_classification":
        row = replace(row, trained=random.random(length) < 0.4)
        row.trained[0] = True
        found = random.integers(0, 3, int(row.trained.sum())).astype(np.float32)
    elif labels.problem_type == "regression":
        found = random.normal(size=labels.count).astype(np.float32)
    elif labels.problem_type == "multi_label_classification":
        found = random.integers(0, 2, labels.count).astype(np.float32)
    else:
        found = random.integers(0, labels.count, 1).astype(np.float32)
    weights = np.full(length, 0.5 + random.random(), np.float32) if number % 3 == 0 else None
    return replace(row, labels=found, weights=weights)


def case_of(
    word: str, task: str, strategy: str, micro: list[int], architecture: dict[str, Any] | None = None
) -> dict[str, Any]:
    labels = None if task in ("causal_lm", "preference") else asdict(labels_of(word, task))
    return {
        "model": "llama3_8b",
        "architecture": SIZES | (architecture or {}),
        "task": task,
        "loss": word,
        "of_loss": OF_LOSS.get(word, {}),
        "labels": labels,
        "strategy": strategy,
        "micro": micro,
        "probe": False,
        "adamw": {"eps": 1e-6},
    }


def own_class(case: dict[str, Any]) -> Any:
    """Returns the model of transformers' own class, with distft's initial weights."""
    empty = worker.make_skeleton(config_of(case), plan_of(case))
    source, config = FreshWeights(empty, 0), empty.config
    config._attn_implementation = "sdpa"
    model = type(empty)(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(source.read(key, tuple(parameter.shape), 0, parameter.numel()).view(parameter.shape))
    return model


def train_by_class(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Returns losses and norms of 5 steps, and the final weights, in fp64."""
    word, settings = case["loss"], case["of_loss"]
    if load_task(case["task"]).unit == "pair":
        return _train(case, folder, pair_loss(word, settings))
    if word == "distillation":
        return _train(case, folder, distillation(settings))
    reference = REFERENCES[word]

    def loss_of(model: Any, picked: list[Row]) -> torch.Tensor:
        ids, mask = padded(picked)
        logits = model(input_ids=ids, attention_mask=mask).logits
        if case["task"] == "token_classification":
            logits = torch.cat(
                [
                    each[: len(row.trained)][torch.from_numpy(row.trained)]
                    for each, row in zip(logits, picked, strict=True)
                ]
            )
        return reference(logits, picked, settings)

    return _train(case, folder, loss_of)


def _train(case: dict[str, Any], folder: Path, loss_of: Callable[[Any, list[Row]], torch.Tensor]) -> dict[str, Any]:
    with InDouble():
        return train_on(loss_of, own_class(case).double().train(), folder, 5, 0, 1.0, ADAMW | case["adamw"])


def _labels(picked: list[Row]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([row.labels for row in picked])).double()


def _weights(picked: list[Row]) -> torch.Tensor:
    per_row = [np.ones(len(row.input_ids), np.float32) if row.weights is None else row.weights for row in picked]
    return torch.from_numpy(np.concatenate([w[row.trained] for w, row in zip(per_row, picked, strict=True)])).double()


def _cross_entropy(logits: torch.Tensor, picked: list[Row], settings: dict[str, Any]) -> torch.Tensor:
    classes = _labels(picked).long()
    weights = _weights(picked) * torch.tensor(settings["class_weights"]).double()[classes]
    losses = F.cross_entropy(logits, classes, reduction="none", label_smoothing=settings["label_smoothing"])
    losses = losses + settings["z_loss"] * logits.logsumexp(1) ** 2
    return (losses * weights).sum() / weights.sum()


def _by_row(losses: torch.Tensor, picked: list[Row]) -> torch.Tensor:
    weights = _weights(picked)
    return (losses.mean(1) * weights).sum() / weights.sum()


def _mse(logits: torch.Tensor, picked: list[Row], settings: dict[str, Any]) -> torch.Tensor:
    return _by_row(F.mse_loss(logits, _labels(picked).view_as(logits), reduction="none"), picked)


def _huber(logits: torch.Tensor, picked: list[Row], settings: dict[str, Any]) -> torch.Tensor:
    labels = _labels(picked).view_as(logits)
    return _by_row(F.huber_loss(logits, labels, reduction="none", delta=settings["delta"]), picked)


def _bce(logits: torch.Tensor, picked: list[Row], settings: dict[str, Any]) -> torch.Tensor:
    labels, weight = _labels(picked).view_as(logits), torch.tensor(settings["positive_weight"]).double()
    losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none", pos_weight=weight)
    return _by_row(losses, picked)


REFERENCES: dict[str, Callable[[torch.Tensor, list[Row], dict[str, Any]], torch.Tensor]] = {
    "cross_entropy": _cross_entropy,
    "mse": _mse,
    "huber": _huber,
    "bce": _bce,
}
