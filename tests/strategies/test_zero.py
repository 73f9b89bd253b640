"""DeepSpeed applies every setting, or the run does not start."""

from typing import Any

import pytest
import torch

from distft.runtime.process_group import World
from distft.strategies.zero import MAX_BUCKET, MIN_BUCKET, Zero, check_effective
from tests.support.ranks import run_ranks

WORLD = World(0, 2, 0, 2, torch.device("cpu"))


def in_force(**changes: Any) -> dict[str, object]:
    live = {"stage": 2, "reduce_bucket_size": MIN_BUCKET, "overlap_comm": False, "offload": False}
    dtypes = {"compute_dtype": "torch.float32", "reduce_dtype": "torch.float32", "accumulate_dtype": "torch.float32"}
    return live | dtypes | changes


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("reduce_bucket_size", 500_000_000),
        ("reduce_dtype", "torch.bfloat16"),
        ("stage", 1),
        ("overlap_comm", True),
        ("offload", True),
    ],
)
def test_a_setting_ignored_by_deepspeed_is_detected(key: str, value: Any) -> None:
    settings = Zero(2).settings(1000, torch.float32, WORLD)
    check_effective(settings, in_force())
    with pytest.raises(RuntimeError, match=f"{key}: requested .*, effective {value}"):
        check_effective(settings, in_force(**{key: value}))


def test_buckets_follow_the_models_size_within_bounds() -> None:
    sizes = [
        Zero(2).settings(n, torch.float32, WORLD)["zero_optimization"]["reduce_bucket_size"]
        for n in (10**6, 10**8, 10**11)
    ]
    assert sizes == [MIN_BUCKET, 10**8 // 16, MAX_BUCKET]


@pytest.mark.slow
def test_zero_imports_no_compiler_and_is_quiet() -> None:
    """In a Python of its own, since peft in the others imports bitsandbytes, and that a compiler."""
    assert run_ranks(1, "tests.strategies.compilers", PYTHONUNBUFFERED="1") == {
        "loaded": [],
        "disabled": None,
        "warns": False,
    }


@pytest.mark.slow
def test_a_deepspeed_with_another_norm_path_is_refused() -> None:
    assert run_ranks(1, "tests.strategies.other_class") == "this DeepSpeed has no scaled_global_norm in BF16_Optimizer"
