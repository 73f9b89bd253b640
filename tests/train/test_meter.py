"""A utilisation has a denominator that is known by name, and one above all that a machine can do is an error."""

import re

import pytest
import torch

from distft.train import timing
from distft.train.timing import Mfu, Peak, peak_of


def test_a_device_without_data_sheet_is_measured() -> None:
    peak = peak_of(torch.device("cpu"), torch.float32)
    assert 1e8 < peak.flops < 1e14
    assert re.match(r"measured float32 product of (256x256|512x512|1024x1024) matrices, \d+ threads$", peak.source)


def test_the_fastest_product_is_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of bf16 on a processor without it, whose large products are slower than a step's small ones."""
    monkeypatch.setattr(timing, "_measured", lambda device, dtype, size: {256: 2e9, 512: 3e9, 1024: 1e9}[size])
    peak = peak_of(torch.device("cpu"), torch.bfloat16)
    assert peak.flops == 3e9 and peak.source.startswith("measured bfloat16 product of 512x512 matrices")


def test_the_share_is_of_all_processes() -> None:
    assert Mfu(Peak(1e9, "a guess"), 3).of_step(3e9, 2.0) == pytest.approx(0.5)


def test_an_mfu_above_one_prints_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    mfu = Mfu(Peak(1e9, "a guess"), 1)
    assert mfu.of_step(3e9, 1.0) is None
    assert mfu.of_step(4e9, 1.0) is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(
        "ERROR: an MFU of 300% cannot be: 3e+09 FLOP in 1 s on 1 processes of 1e+09 FLOP/s (a guess)"
    )


def test_an_accelerator_without_data_sheet_is_measured_by_products_that_fill_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In fp32 the data sheet's figure of bf16 is not its peak either."""
    sizes: list[int] = []
    monkeypatch.setattr(timing, "_measured", lambda device, dtype, size: sizes.append(size) or float(size))
    assert peak_of(torch.device("cuda"), torch.float32).flops == 8192
    assert min(sizes) == 4096


def test_products_are_of_numbers_that_are_not_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal bits cost an accelerator less power, and it then makes more products than of anything a model holds."""
    seen: list[float] = []
    real = torch.Tensor.__matmul__

    def watched(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        seen.extend((left.float().std().item(), right.float().std().item()))
        return real(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    peak_of(torch.device("cpu"), torch.float32)
    assert min(seen) > 0.9
