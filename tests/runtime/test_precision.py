"""fp32 means fp32 and bf16 is added up in fp32, and what is in force is read back."""

from collections.abc import Iterator

import pytest
import torch

from distft.runtime.device import compute_dtype, exact_products


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
