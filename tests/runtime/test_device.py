"""Memory is reported as its device counts it, and garbage is collected at set steps only.

fp32 is exact, bf16 accumulates in fp32, and both are read back.
"""

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch

from distft.runtime.device import COLLECT_EVERY, collecting, compute_dtype, exact_products, memory_of

GIB = 2**30


def test_accelerators_report_reserved_memory_and_retries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", lambda device: 3 * GIB)
    monkeypatch.setattr(torch.accelerator, "max_memory_reserved", lambda device: 5 * GIB)
    monkeypatch.setattr(torch.accelerator, "memory_stats", lambda device: {"num_alloc_retries": 7, "num_ooms": 1})
    reported = memory_of(torch.device("cuda", 1))
    assert reported == {"peak_memory_gib": 3.0, "reserved_memory_gib": 5.0, "allocator_retries": 7}


def test_a_cpu_reports_resident_memory() -> None:
    reported = memory_of(torch.device("cpu"))
    assert list(reported) == ["peak_memory_gib"] and 0.01 < reported["peak_memory_gib"] < 1000


class Ring:
    """What only a collection can free."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.slow
def test_garbage_is_collected_at_set_steps_during_training() -> None:
    with collecting() as after:
        assert not gc.isenabled()
        dropped = weakref.ref(Ring())
        after(COLLECT_EVERY - 1)
        assert dropped() is not None
        after(COLLECT_EVERY)
        assert dropped() is None
        older = Ring()
        outlived = weakref.ref(older)
        after(2 * COLLECT_EVERY)
        after(3 * COLLECT_EVERY)
        del older
        after(4 * COLLECT_EVERY)
        assert outlived() is None, "what outlived a collection is found by a later one"
    assert gc.isenabled()


@pytest.fixture
def fast_products() -> Iterator[None]:
    """As another library may have left the switches; on a CPU they are there too."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_tf32 = cudnn.allow_tf32 = matmul.allow_bf16_reduced_precision_reduction = True
    yield
    matmul.allow_tf32, cudnn.allow_tf32, matmul.allow_bf16_reduced_precision_reduction = before


def test_products_round_no_more_than_their_dtype(fast_products: None) -> None:
    assert torch.backends.cuda.matmul.allow_tf32 and torch.get_float32_matmul_precision() == "high"
    found = exact_products()
    assert found == {"tf32": False, "bf16_reduced_precision_reduction": False, "float32_matmul_precision": "highest"}
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32


def test_auto_is_fp32_on_a_cpu() -> None:
    assert compute_dtype("auto", torch.device("cpu")) == torch.float32
