"""A rank's device is one that the machine has."""

import pytest
import torch

from distft.launchers.ranks import can_fork
from distft.runtime.process_group import device_of


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch says where it is built for CUDA, which PyPI's own Linux build is."""
    monkeypatch.setattr(torch._C, "_accelerator_getAccelerator", lambda: torch.device("cuda"))


def test_a_build_for_accelerators_runs_on_the_cpu_of_a_machine_without_one(cuda_build: None):
    assert torch.accelerator.current_accelerator() == torch.device("cuda")
    assert device_of(1) == torch.device("cpu")
    can_fork.cache_clear()
    assert can_fork()


def test_each_rank_has_the_accelerator_of_its_number(cuda_build: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of(1) == torch.device("cuda", 1)
    can_fork.cache_clear()
    assert not can_fork()
    can_fork.cache_clear()
