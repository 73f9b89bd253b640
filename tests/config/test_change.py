"""A run continues with any layout; keys that change its meaning are refused unless they are allowed."""

import pytest

from distft.config import compose
from distft.config.freeze import FREE, refusal
from distft.config.key import covers, leaves


def refused(right: list[str], *changes: str) -> str | None:
    return refusal(compose(right).values, compose([*right, *changes]).values, "name=x: runs/x")


LAYOUT = ["strategy=zero3", "train.micro_batch_size=2", "launcher.grace_seconds=9", "checkpoint.keep=5"]
LAYOUT += ["tracker=tensorboard", "train.activation_checkpointing=full", "model.attention=eager"]


@pytest.mark.slow
@pytest.mark.parametrize("change", LAYOUT)
def test_a_run_continues_with_another_layout_or_tracker(right: list[str], change: str):
    assert refused(right, change) is None


MEANING = ["train.max_steps=7", "train.epochs=3", "train.global_batch_size=64", "seed=1", "optimizer.lr=0.5"]
MEANING += ["optimizer=sgd", "schedule=linear", "loss.label_smoothing=0.1", "data.max_length=64", "data.eval=0.5"]
MEANING += ["train.precision=bf16", "train.max_grad_norm=null", "tuning=lora", "data.split_seed=3", "model=gpt2"]


@pytest.mark.slow
@pytest.mark.parametrize("change", MEANING)
def test_changes_of_meaning_are_refused_until_allowed(right: list[str], change: str):
    message = refused(right, change)
    assert message is not None and "was made with another config" in message and " -> " in message
    offered = message.splitlines()[0].rpartition("or ")[2]
    assert offered.startswith("checkpoint.allow_change=[")
    assert refused(right, change, offered) is None


def test_a_group_allows_its_keys_and_no_others(right: list[str]):
    both = ["optimizer.lr=0.5", "seed=1", "checkpoint.allow_change=[optimizer]"]
    message = refused(right, *both)
    assert message is not None
    assert [line.strip() for line in message.splitlines()[1:]] == ["seed: 0 -> 1"]
    assert "checkpoint.allow_change=[optimizer,seed]" in message


@pytest.mark.slow
def test_every_free_key_is_there(right: list[str]):
    keys = [key for key, _ in leaves(compose([*right, "tracker=wandb"]).values)]
    assert all(any(covers([free], key) for key in keys) for free in FREE)
