"""An out-of-memory error gives the planned memory and three changes that need less."""

from dataclasses import replace
from typing import Any

import pytest

from distft.run import Plan
from distft.train.oom_probe import OutOfMemory, out_of_memory

GIB = 2**30
CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1.2 GiB is free"
)
MEMORY = {
    "ddp": {"parameters": 30 * GIB, "gradients": 30 * GIB, "optimizer": 60 * GIB, "total": 120 * GIB, "host": 0},
    "fsdp": {"parameters": 4 * GIB, "gradients": 4 * GIB, "optimizer": 8 * GIB, "total": 16 * GIB, "host": 0},
    "zero3_offload": {
        "parameters": 8 * GIB,
        "gradients": 8 * GIB,
        "optimizer": 8 * GIB,
        "total": 24 * GIB,
        "host": 24 * GIB,
    },
}
NUMBERS: dict[str, Any] = dict.fromkeys(Plan.__dataclass_fields__, 0)
PLAN = Plan(
    **(NUMBERS | {"nodes": 1, "adapters": None, "micro_batch_size": 8, "micro_batch_tokens": None, "memory": MEMORY})
)


def reported(plan: Plan, strategy: str, activations: str = "none", max_length: int = 1024) -> str:
    error = out_of_memory(CUDA, plan, strategy, max_length, activations)
    assert isinstance(error, OutOfMemory)
    return str(error)


def test_an_oom_message_has_request_plan_and_advice():
    assert reported(PLAN, "ddp") == (
        "out of memory: tried to allocate 2.00 GiB. Planned for a process under ddp: 120.0 GiB (parameters 30.0, "
        "gradients 30.0, optimizer 60.0); a forward of 8 rows keeps the rest. Try: train.micro_batch_size=4, or "
        "train.activation_checkpointing=selective, or strategy=zero3_offload (0.0 instead of 120.0 GiB of these)"
    )


def test_an_oom_message_has_the_estimate_of_activations():
    memory = {**MEMORY, "ddp": {**MEMORY["ddp"], "activations": 11 * GIB, "loss": GIB}}
    text = reported(replace(PLAN, memory=memory, forward_tokens=8192), "ddp")
    assert "optimizer 60.0); about 12.0 for a forward of 8,192 tokens and its loss. Try: " in text


@pytest.mark.parametrize(
    ("change", "strategy", "activations", "advice"),
    [
        (
            {"micro_batch_size": None, "micro_batch_tokens": 4096},
            "fsdp",
            "selective",
            ["train.micro_batch_tokens=2048", "train.activation_checkpointing=full", "strategy=zero3_offload"],
        ),
        (
            {"micro_batch_size": None, "micro_batch_tokens": 1024},
            "zero3_offload",
            "full",
            ["data.max_length=512 train.micro_batch_tokens=512", "launcher.nodes=2", "tuning=lora"],
        ),
        ({"micro_batch_size": 1}, "zero3_offload", "full", ["launcher.nodes=2", "tuning=lora"]),
        ({"memory": {}}, "own", "none", ["train.micro_batch_size=4", "selective", "launcher.nodes=2"]),
    ],
)
def test_suggested_changes_are_possible(change: dict[str, Any], strategy: str, activations: str, advice: list[str]):
    _, _, said = reported(replace(PLAN, **change), strategy, activations).partition("Try: ")
    found = said.split(", or ")
    assert len(found) == len(advice)
    assert all(words in each for words, each in zip(advice, found, strict=True)), said


def test_a_smaller_micro_batch_is_not_suggested_below_a_row():
    said = reported(replace(PLAN, micro_batch_size=None, micro_batch_tokens=1500), "fsdp", max_length=1024)
    assert "train.micro_batch_tokens=1024" in said
