"""A utilisation has a denominator that is known by name, and one above all that a machine can do is an error."""

import pytest
import torch

from distft.train.meter import Peak, peak_of, utilisation


def test_a_device_without_data_sheet_is_measured() -> None:
    peak = peak_of(torch.device("cpu"), torch.float32)
    assert 1e8 < peak.flops < 1e14
    assert peak.source.startswith("measured float32 product of 1024x1024 matrices, ")


def test_the_share_is_of_all_processes() -> None:
    assert utilisation(3e9, 2.0, 3, Peak(1e9, "a guess")) == pytest.approx(0.5)


def test_more_than_all_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert utilisation(3e9, 1.0, 1, Peak(1e9, "a guess")) is None
    said = capsys.readouterr().err
    assert said.startswith(
        "ERROR: an MFU of 300% cannot be: 3e+09 FLOP in 1 s on 1 processes of 1e+09 FLOP/s (a guess)"
    )
