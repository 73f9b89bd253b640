"""FLOPs are those that torch counts while the model runs, for every architecture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from distft.data.batches import make_batch
from distft.data.shards import Row
from distft.models.flops import Flops
from distft.paths import conf_dir
from tests.models.attention.test_sdpa import live

MODELS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))


def products(model: Any, rows: list[Row]) -> tuple[float, float]:
    """Returns what torch counts for the linear layers of a forward and for its attention, the whole square."""
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        model(**make_batch(rows).inputs())
    by_name = {str(name): count for name, count in counted.get_flop_counts()["Global"].items()}
    linear = sum(count for name, count in by_name.items() if "mm" in name and "bmm" not in name)
    return linear, sum(count for name, count in by_name.items() if "bmm" in name)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_linear_layers_are_counted_as_torch_counts_them(name: str) -> None:
    lengths = np.asarray([9, 30])
    rows = [Row(np.arange(length, dtype=np.int32), np.ones(length, bool)) for length in lengths]
    flops = Flops.of(live(name, "eager"))
    linear, _ = products(live(name, "eager"), rows)
    assert flops.per_token * lengths.sum() + flops.per_target * lengths.sum() == linear  # all are projected there


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama3_8b", "gpt2"])
def test_attention_is_the_causal_part_of_the_square(name: str) -> None:
    length = 24
    model = live(name, "eager")
    flops = Flops.of(model)
    _, square = products(model, [Row(np.arange(length, dtype=np.int32), np.ones(length, bool))])
    layers = sum(flops.windows.values())
    assert flops.per_pair * layers * length**2 == pytest.approx(square, rel=0.02)  # and the rotary angles
    [row] = flops.of_rows(np.asarray([length]), np.asarray([0]))
    assert row == flops.per_token * length + flops.per_pair * layers * length * (length + 1) / 2


def test_windows_bound_what_a_token_sees() -> None:
    flops = Flops(per_token=0.0, per_pair=1.0, per_target=0.0, windows={4: 1})
    seen = [min(i + 1, 4) for i in range(10)]
    assert flops.of_rows(np.asarray([10]), np.asarray([0])).tolist() == [sum(seen)]
    assert Flops.of(live("gemma3_4b", "eager")).windows == {16: 1, None: 1}
    assert Flops.of(live("mistral_7b", "eager")).windows == {16: 2}


def test_a_target_costs_a_projection(tmp_path: Path) -> None:
    flops = Flops.of(live("smollm2_135m", "eager"))
    none, one = flops.of_rows(np.asarray([5, 5]), np.asarray([0, 1]))
    assert one - none == 2 * 512 * 48
