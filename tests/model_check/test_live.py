"""A run first compares the live model with its own class, and ends with an error if they differ."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distft.data.batches import Batch
from distft.losses.cross_entropy import CrossEntropy
from distft.model_check.live import Agreement, check_live
from distft.models.build import blocks
from distft.models.init import FreshWeights
from distft.runtime.errors import FINAL, Disagreement
from distft.strategies.engine import Objective
from distft.tensors.streaming import fill
from tests.support.alone import alone
from tests.support.train_cases import instantiate_strategy, tiny_model


class Documents:
    """Rows of 3, 1, 5 and 200 tokens."""

    def __init__(self) -> None:
        self.lengths = np.array([3, 1, 5, 200])
        draw = np.random.default_rng(0)
        self.ids = [draw.integers(0, 512, length).astype(np.int32) for length in self.lengths]

    def __getitem__(self, index: int) -> Any:
        return type("Row", (), {"input_ids": self.ids[index]})


def check(loss: Any = None, layer: Any = None, rows: tuple[int, ...] = (0, 1, 2, 3), objective: Any = None) -> None:
    """Checks a live tiny Llama whose loss, or a method of whose layers, is another."""
    with alone() as world:

        def build() -> Objective:
            model = tiny_model("llama3_8b")
            for each in blocks(model).values() if layer else ():
                each.forward = layer(each.forward)
            return Objective(model, loss or CrossEntropy(), list(blocks(model).values()))

        strategy = instantiate_strategy("ddp")
        engine = strategy.setup(build, lambda _: torch.optim.SGD([nn.Parameter(torch.ones(1))]), world, torch.float32)
        fill(list(engine.pieces()), FreshWeights(tiny_model("llama3_8b"), 0))
        engine.refresh()
        check_live(engine, Documents(), np.array(rows), 512, torch.float32, world)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("rows", [(0, 1, 2, 3), (2,), (1,)], ids=["some", "one", "too short to learn from"])
def test_a_model_that_agrees_passes(rows: tuple[int, ...]) -> None:
    check(rows=rows)


def forgetful(forward: Any) -> Any:
    return lambda *given, document_lengths=None, cu_seq_lens_q=None, **named: forward(*given, **named)


def test_documents_that_attend_to_each_other_end_the_run() -> None:
    with pytest.raises(Disagreement, match="does not separate packed documents.* Nothing was trained. Try"):
        check(layer=forgetful)


class Halved(CrossEntropy):
    def __call__(self, model: nn.Module, batch: Batch) -> Any:
        value, sums = super().__call__(model, batch)
        return value * (1 - 3e-5), sums


@pytest.mark.slow
def test_a_loss_that_differs_from_the_class_ends_the_run() -> None:
    with pytest.raises(
        Disagreement, match=r"LlamaForCausalLM computes a loss of 6\.\d+ by its own class and of 6\.\d+"
    ):
        check(loss=Halved())


def test_only_cross_entropy_is_compared_with_the_class() -> None:
    check(loss=lambda model, batch: (Halved()(model, batch)[0] * 2, {}))


def test_nan_agrees_with_nothing() -> None:
    assert Agreement("X", own=1.0, loss=float("nan"), other=0.0, of_logits=0.0).wrong()
    assert Agreement("X", own=1.0, loss=1.0, other=float("nan"), of_logits=0.0).wrong()


def test_a_run_that_disagrees_is_not_restarted() -> None:
    assert Disagreement.__name__ in FINAL
