"""TRL's losses of given pairs, in the peers' own environment: `python preference_trl.py FOLDER`.

FOLDER holds policy/, reference/ and reward/ (Hugging Face folders) and pairs.json: token ids and answer masks. For each
loss it writes the mean loss and margin to trl.json, and the gradient of every weight to trl-NAME.safetensors.
Trap: nothing of distft is imported here; the tokens come from its data stage.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset  # pyright: ignore[reportAttributeAccessIssue]  # the benchmark's folders hide nothing of it
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import (  # pyright: ignore[reportMissingImports]  # in the peers' environment alone
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
)
from trl.experimental.cpo import CPOTrainer  # pyright: ignore[reportMissingImports]  # as above
from trl.experimental.orpo import ORPOTrainer  # pyright: ignore[reportMissingImports]  # as above

Inputs = dict[str, torch.Tensor]


def padded(pairs: list[dict[str, Any]], sides: tuple[str, ...]) -> Inputs:
    """Returns the documents of all pairs, those of the first side first, padded on the right."""
    documents = [pair[side] for side in sides for pair in pairs]
    width = max(len(document["input_ids"]) for document in documents)
    ids = torch.zeros(len(documents), width, dtype=torch.int64)
    inputs = {"input_ids": ids, "attention_mask": torch.zeros_like(ids), "completion_mask": torch.zeros_like(ids)}
    for i, document in enumerate(documents):
        length = len(document["input_ids"])
        inputs["input_ids"][i, :length] = torch.tensor(document["input_ids"])
        inputs["attention_mask"][i, :length] = 1
        inputs["completion_mask"][i, :length] = torch.tensor(document["trained"]).long()
    return inputs


def gradients(model: Any) -> Inputs:
    """Returns the gradient of every weight; tied weights once."""
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def options(folder: Path, **more: Any) -> dict[str, Any]:
    return {"output_dir": str(folder / "trainer"), "use_cpu": True, "bf16": False, "report_to": [], "beta": 0.1} | more


def dpo(folder: Path, pairs: list[dict[str, Any]], loss_type: str) -> tuple[float, float, Inputs]:
    """Returns loss, margin and gradients of TRL's DPOTrainer."""
    model, reference = (AutoModelForCausalLM.from_pretrained(folder / name) for name in ("policy", "reference"))
    arguments = DPOConfig(**options(folder, loss_type=[loss_type], gradient_checkpointing=False))
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    trainer = DPOTrainer(model, reference, arguments, train_dataset=rows(), processing_class=tokenizer)
    trainer.model.train()
    loss = trainer._compute_loss(model, padded(pairs, ("chosen", "rejected")), False)
    loss.backward()
    return loss.item(), trainer._metrics["train"]["rewards/margins"][-1], gradients(model)


def kto(folder: Path, pairs: list[dict[str, Any]]) -> tuple[float, float, Inputs]:
    """Returns the same of KTOTrainer without an estimate of the divergence; the first side is desirable."""
    model, reference = (AutoModelForCausalLM.from_pretrained(folder / name) for name in ("policy", "reference"))
    arguments = KTOConfig(**options(folder, loss_type="apo_zero_unpaired", gradient_checkpointing=False))
    labelled = Dataset.from_list([{"prompt": "a", "completion": "b", "label": i == 0} for i in range(2)])
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    trainer = KTOTrainer(model, reference, arguments, train_dataset=labelled, processing_class=tokenizer)
    trainer.model.train()
    inputs: dict[str, Any] = dict(padded(pairs, ("chosen", "rejected")))
    inputs["label"] = torch.tensor([True] * len(pairs) + [False] * len(pairs))
    loss = trainer._compute_loss(model, inputs, False)
    loss.backward()
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items() if "rewards" in name}
    return loss.item(), metrics.get("rewards/margins", float("nan")), gradients(model)


def reward(folder: Path, pairs: list[dict[str, Any]]) -> tuple[float, float, Inputs]:
    """Returns the same of RewardTrainer."""
    model = AutoModelForSequenceClassification.from_pretrained(folder / "reward", num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    given = options(folder, gradient_checkpointing=False, center_rewards_coefficient=0.01)
    given.pop("beta")
    trainer = RewardTrainer(model, RewardConfig(**given), train_dataset=rows(), processing_class=tokenizer)
    trainer.model.train()
    inputs = padded(pairs, ("chosen", "rejected"))
    inputs.pop("completion_mask")
    model.config.pad_token_id = 0  # of the batch: transformers reads the last token that is not padding
    loss = trainer.compute_loss(model, dict(inputs))
    loss.backward()
    return loss.item(), trainer._metrics["train"]["margin"][-1], gradients(model)


def without_reference(folder: Path, pairs: list[dict[str, Any]], name: str) -> tuple[float, float, Inputs]:
    """Returns the same of SimPO and ORPO: TRL's functions of the mean log-probabilities of the answers."""
    model = AutoModelForCausalLM.from_pretrained(folder / "policy").train()
    inputs = padded(pairs, ("chosen", "rejected"))
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    of = SimpleNamespace(device=torch.device("cpu"))
    if name == "simpo":
        means = CPOTrainer.get_batch_logps(logits, labels, average_log_prob=True)
        chosen, rejected = means.chunk(2)
        trainer = SimpleNamespace(
            alpha=0.0, beta=2.0, simpo_gamma=1.0, label_smoothing=0.0, loss_type="simpo", accelerator=of
        )
        losses, better, worse = CPOTrainer.cpo_loss(trainer, chosen, rejected)
    else:
        means = ORPOTrainer.get_batch_logps(logits, labels, average_log_prob=True)
        chosen, rejected = means.chunk(2)
        trainer = SimpleNamespace(beta=0.1, accelerator=of)
        ratio, better, worse, *_ = ORPOTrainer.odds_ratio_loss(trainer, chosen, rejected)
        losses = -chosen - ratio
    losses.mean().backward()
    return losses.mean().item(), (better - worse).mean().item(), gradients(model)


def rows() -> Any:
    """Returns two rows, which a trainer prepares and nobody trains on."""
    return Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2)


def main() -> None:
    folder = Path(sys.argv[1])
    pairs = json.loads((folder / "pairs.json").read_text())
    torch.manual_seed(0)
    results = {
        "dpo": dpo(folder, pairs, "sigmoid"),
        "ipo": dpo(folder, pairs, "ipo"),
        "dpo_per_token": dpo(folder, pairs, "sigmoid_norm"),
        "kto": kto(folder, pairs),
        "simpo": without_reference(folder, pairs, "simpo"),
        "orpo": without_reference(folder, pairs, "orpo"),
        "reward": reward(folder, pairs),
    }
    for name, (_, _, of_weights) in results.items():
        save_file(of_weights, folder / f"trl-{name}.safetensors")
    found = {name: {"loss": loss, "margin": margin} for name, (loss, margin, _) in results.items()}
    (folder / "trl.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
