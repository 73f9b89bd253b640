"""Losses, margins and gradients of preference losses by distft and TRL, on the same pairs and weights.

    python -m benchmarks.peers.preference [venv=FOLDER] [pairs=N]

The pairs are real ones (benchmarks.preference) in the demo model's tokens; the models are random ones of its
vocabulary, policy and reference of other seeds. distft sees the pairs packed in one row, TRL padded. Prints the
differences, each relative to TRL's value, or for gradients to the largest element; returns 1 where one exceeds 1e-4.
TRL's ORPO adds a cross-entropy over the prompt's tokens too; here both take the answer's, as the paper says. Its
margins of losses per token are of sums over answers, which those losses do not compare, so they are not compared here.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig

from benchmarks.peers.venv import python_of
from benchmarks.preference import preference_rows
from benchmarks.rows import demo_folder, read_pairs
from distft.config import ConfigError, command
from distft.config.command import keywords, usage
from distft.data.batches import Batch, make_batch
from distft.data.formats import load_format
from distft.data.pairs import render_group
from distft.data.render import make_renderer
from distft.data.shards import Row
from distft.data.tokenize import RowTokenizer, load_tokenizer
from distft.losses.dpo import DPO
from distft.losses.ipo import IPO
from distft.losses.kto import KTO
from distft.losses.log_probabilities import log_probabilities
from distft.losses.orpo import ORPO
from distft.losses.reward import Reward
from distft.losses.simpo import SimPO
from distft.models.attention.choose import SDPA
from distft.models.heads import check_head, make_foldable

KEYS = {"venv": "the peers' environment (default ~/.cache/distft/peers)", "pairs": "number of pairs (default 12)"}
CLAIM = "Compares losses, margins and gradients with TRL's; returns 1 where one differs by over 1e-4."
PROGRAM = Path(__file__).with_name("preference_trl.py")
TOLERANCE = 1e-4
PER_TOKEN = ("ipo", "dpo_per_token")  # losses whose margin is of means over tokens, and TRL's of sums
TINY: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
Loss = Callable[[Any, Batch], tuple[torch.Tensor, dict[str, torch.Tensor]]]
LOSSES: dict[str, Loss] = {
    "dpo": DPO(reference="stored"),
    "ipo": IPO(reference="stored"),
    "dpo_per_token": DPO(length_normalized=True, reference="stored"),
    "kto": KTO(reference="stored"),
    "simpo": SimPO(),
    "orpo": ORPO(),
    "reward": Reward(center=0.01),
}


def write_models(folder: Path, vocabulary: int) -> None:
    """Writes policy, reference and reward model, with weights that differ enough to separate the losses."""
    config = LlamaConfig(vocab_size=vocabulary, **TINY, initializer_range=0.2, pad_token_id=0)
    for seed, name in enumerate(("policy", "reference")):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
    config.num_labels = 1
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / "reward")


def tokenized(pairs: Sequence[dict[str, str]], tokenizer: Any) -> list[list[Row]]:
    """Returns the two documents of each pair, as the data stage makes them."""
    renderer, tokenize = make_renderer(tokenizer, "auto"), RowTokenizer(tokenizer)
    form = load_format("preference", {})
    return [[made.row for made in tokenize(render_group(form(pair), renderer.rows).documents)] for pair in pairs]


def batch_for(name: str, documents: list[list[Row]], reference: np.ndarray) -> Batch:
    """Returns the batch of a loss. reference: log-probabilities [pairs, 2] under the reference model."""
    if name == "kto":
        rows = [
            Row(
                side.input_ids,
                side.trained,
                None,
                np.array([1.0 - i], np.float32),
                np.zeros(0, np.int32),
                each[i : i + 1],
            )
            for sides, each in zip(documents, reference, strict=True)
            for i, side in enumerate(sides)
        ]
        return make_batch(rows)
    rows = [
        Row(
            np.concatenate([side.input_ids for side in sides]),
            np.concatenate([side.trained for side in sides]),
            borders=np.array([len(sides[0].input_ids)], np.int32),
            reference=each,
        )
        for sides, each in zip(documents, reference, strict=True)
    ]
    return make_batch(rows)


def measure(folder: Path, documents: list[list[Row]]) -> dict[str, tuple[float, float, dict[str, torch.Tensor]]]:
    """Returns mean loss, mean margin and gradients of each loss by distft."""
    options = {"attn_implementation": SDPA}
    frozen = AutoModelForCausalLM.from_pretrained(folder / "reference", **options)
    make_foldable(frozen)
    flat = [side for sides in documents for side in sides]
    with torch.no_grad():
        found = log_probabilities(frozen, make_batch(flat)).log_probabilities
    reference = found.view(-1, 2).numpy()
    results = {}
    for name, loss in LOSSES.items():
        if name == "reward":
            model = AutoModelForSequenceClassification.from_pretrained(folder / "reward", **options)
            check_head(model)
        else:
            model = AutoModelForCausalLM.from_pretrained(folder / "policy", **options)
            make_foldable(model)
        batch = batch_for(name, documents, reference)
        value, sums = loss(model, batch)
        (value / batch.weight).backward()
        margin = sums["margin"] / batch.num_targets if "margin" in sums else margin_of_kto(sums, batch.num_targets)
        gradients = {key: each.grad for key, each in model.named_parameters() if each.grad is not None}
        results[name] = (float(value.detach() / batch.weight), float(margin), gradients)
    return results


def margin_of_kto(sums: dict[str, torch.Tensor], count: int) -> torch.Tensor:
    desirable = sums["desirable"]
    return sums["reward_chosen"] / desirable - sums["reward_rejected"] / (count - desirable)


def main(arguments: list[str]) -> int:
    given = keywords(arguments, KEYS, required=())
    try:
        count = int(given.get("pairs", 12))
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    python = python_of(Path(given.get("venv", "~/.cache/distft/peers")).expanduser())
    demo = demo_folder()
    tokenizer = load_tokenizer(demo / "smollm2-135m-instruct")
    pairs = preference_rows(read_pairs(demo / "chatterbot.jsonl"))[:count]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder, len(tokenizer))
        tokenizer.save_pretrained(folder / "policy")
        documents = tokenized(pairs, tokenizer)
        sides = [
            {
                side: {"input_ids": row.input_ids.tolist(), "trained": row.trained.tolist()}
                for side, row in zip(("chosen", "rejected"), rows, strict=True)
            }
            for rows in documents
        ]
        (folder / "pairs.json").write_text(json.dumps(sides))
        done = subprocess.run([str(python), str(PROGRAM), str(folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr[-3000:], file=sys.stderr)
            return 1
        theirs = json.loads((folder / "trl.json").read_text())
        ours = measure(folder, documents)
        peers = {name: load_file(folder / f"trl-{name}.safetensors") for name in LOSSES}
    worst = 0.0
    print(f"| loss | distft | TRL | margin distft | margin TRL | largest gradient difference |\n|---|{'---|' * 5}")
    for loss, (value, margin, gradients) in ours.items():
        other = theirs[loss]
        assert set(gradients) == set(peers[loss])
        largest = max(float(each.abs().max()) for each in peers[loss].values())
        gap = max(float((gradients[key] - each).abs().max()) for key, each in peers[loss].items()) / largest
        print(f"| {loss} | {value:.6f} | {other['loss']:.6f} | {margin:.6f} | {other['margin']:.6f} | {gap:.1e} |")
        of_margin = 0.0 if loss in PER_TOKEN else abs(margin - other["margin"]) / max(1.0, abs(other["margin"]))
        worst = max(worst, abs(value / other["loss"] - 1), of_margin, gap)
    print(f"largest difference {worst:.1e}, of at most {TOLERANCE:.0e}")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    command(main, help=usage("peers.preference", KEYS, CLAIM))
