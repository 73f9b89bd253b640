"""Rows of pairs and of labelled answers for every loss that reads them, and references in plain PyTorch.

A reference reads every document as its own padded row, with the transformers class of the task. The stored
log-probabilities of the frozen base are random numbers near those of an untrained model.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from distft.data.shards import Row, ShardWriter
from tests.support.rows import reference_file

VOCABULARY = 256
OF_PAIRS: dict[str, dict[str, Any]] = {  # settings other than the defaults
    "dpo": {"beta": 0.3, "label_smoothing": 0.1, "reference": "stored"},
    "ipo": {"beta": 0.2, "reference": "stored"},
    "kto": {"beta": 0.3, "desirable_weight": 1.5, "reference_point": 0.1, "reference": "stored"},
    "orpo": {"beta": 0.3},
    "simpo": {"label_smoothing": 0.1},
    "reward": {"center": 0.05, "margin": 0.1},
}


def write_pairs(folder: Path, word: str, train: int = 40, held_out: int = 31) -> Path:
    """Writes pairs of unequal documents, for KTO single answers with a label; every third row has its own weight."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(2)
    for split, count in (("train", train), ("eval", held_out)):
        writer, stored = ShardWriter(folder, split), []
        for i in range(count):
            row = pair_row(random, 1 if word == "kto" else 2, i)
            tokens = np.array([document.trained[1:].sum() for document in row.documents()])
            stored.append(-np.log(VOCABULARY) * tokens + random.normal(size=len(tokens)))
            writer.add(row, f"{split}-{i}")
        writer.close()
        np.save(reference_file(folder, split), np.stack(stored))
    return folder


def pair_row(random: np.random.Generator, sides: int, number: int) -> Row:
    prompt = random.integers(1, VOCABULARY, random.integers(1, 9))
    answers = [random.integers(1, VOCABULARY, random.integers(1, 12)) for _ in range(sides)]
    documents = [np.append(prompt, answer) for answer in answers]
    trained = [np.arange(len(document)) >= len(prompt) for document in documents]
    return Row(
        np.concatenate(documents).astype(np.int32),
        np.concatenate(trained),
        np.array([0.5 + random.random()], np.float32) if number % 3 == 0 else None,
        np.array([float(random.random() < 0.6)], np.float32) if sides == 1 else None,
        np.array([len(document) for document in documents[:-1]], np.int32),
    )


def pair_loss(word: str, settings: dict[str, Any]) -> Callable[[Any, list[Row]], torch.Tensor]:
    """Returns (model, rows of a step) -> mean loss, each row times its weight."""

    def loss_of(model: Any, picked: list[Row]) -> torch.Tensor:
        documents = [document for row in picked for document in row.documents()]
        width = max(len(document.input_ids) for document in documents)
        ids = torch.zeros(len(documents), width, dtype=torch.int64)
        for i, document in enumerate(documents):
            ids[i, : len(document.input_ids)] = torch.from_numpy(document.input_ids.astype("int64"))
        logits = model(input_ids=ids, attention_mask=(ids > 0).long()).logits
        weights = torch.tensor([1.0 if row.weights is None else float(row.weights[0]) for row in picked]).double()
        if word == "reward":
            chosen, rejected = logits[::2, 0], logits[1::2, 0]
            losses = -logsigmoid(chosen - rejected - settings["margin"])
            losses = losses + settings["center"] * (chosen + rejected) ** 2
            return (losses * weights).sum() / weights.sum()
        sums, counts = _log_probabilities(logits, ids, documents)
        stored = torch.from_numpy(np.concatenate([row.reference for row in picked if row.reference is not None]))
        losses = LOSS_OF[word](sums, counts, stored, settings, picked)
        return (losses * weights).sum() / weights.sum()

    return loss_of


def _log_probabilities(
    logits: torch.Tensor, ids: torch.Tensor, documents: list[Row]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns sums over the trained tokens of each document, and their numbers, each [D]."""
    found = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    trained = torch.zeros_like(found)
    for i, document in enumerate(documents):
        trained[i, : len(document.trained) - 1] = torch.from_numpy(document.trained[1:]).double()
    return (found * trained).sum(1), trained.sum(1)


def _dpo(sums: Any, counts: Any, stored: Any, settings: dict[str, Any], picked: list[Row]) -> torch.Tensor:
    ratios = settings["beta"] * (sums - stored)
    difference, wrong = ratios[::2] - ratios[1::2], settings["label_smoothing"]
    return -(1 - wrong) * logsigmoid(difference) - wrong * logsigmoid(-difference)


def _ipo(sums: Any, counts: Any, stored: Any, settings: dict[str, Any], picked: list[Row]) -> torch.Tensor:
    ratios = (sums - stored) / counts
    return (ratios[::2] - ratios[1::2] - 1 / (2 * settings["beta"])) ** 2


def _simpo(sums: Any, counts: Any, stored: Any, settings: dict[str, Any], picked: list[Row]) -> torch.Tensor:
    means, wrong = 2.0 * sums / counts, settings["label_smoothing"]
    difference = means[::2] - means[1::2] - 1.0
    return -(1 - wrong) * logsigmoid(difference) - wrong * logsigmoid(-difference)


def _orpo(sums: Any, counts: Any, stored: Any, settings: dict[str, Any], picked: list[Row]) -> torch.Tensor:
    p = (sums / counts).exp()
    odds = p / (1 - p)
    return -(sums / counts)[::2] - settings["beta"] * logsigmoid((odds[::2] / odds[1::2]).log())


def _kto(sums: Any, counts: Any, stored: Any, settings: dict[str, Any], picked: list[Row]) -> torch.Tensor:
    good = torch.tensor([float(row.labels[0]) for row in picked if row.labels is not None]).double()
    gain = settings["beta"] * (sums - stored - settings["reference_point"])
    of_good = settings["desirable_weight"] * (1 - torch.sigmoid(gain))
    return good * of_good + (1 - good) * (1 - torch.sigmoid(-gain))


LOSS_OF: dict[str, Callable[..., torch.Tensor]] = {
    "dpo": _dpo,
    "ipo": _ipo,
    "simpo": _simpo,
    "orpo": _orpo,
    "kto": _kto,
}
