"""A rank gets a device of the machine, and collectives a timeout above the watchdog's."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from distft.config.parts import Launcher
from distft.launchers.elastic import can_fork
from distft.launchers.watchdog import Limits
from distft.runtime.process_group import COLLECTIVE_SECONDS, collective_seconds, device_of, share_timeout
from tests.support.alone import alone


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch says where it is built for CUDA, which PyPI's own Linux build is."""
    monkeypatch.setattr(torch._C, "_accelerator_getAccelerator", lambda: torch.device("cuda"))


def test_an_accelerator_build_runs_on_a_machine_without_one(cuda_build: None):
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


@pytest.mark.parametrize(
    "launcher", [{}, {"hang_seconds": 200_000.0, "hang_seconds_outside": 0}, {"hang_seconds_outside": 1e6}]
)
def test_collectives_time_out_after_the_watchdog(launcher: dict[str, float]) -> None:
    settings = Launcher.model_validate(launcher)
    limits = Limits.of(settings)
    seconds = collective_seconds(settings.hang_seconds, settings.hang_seconds_outside)
    assert seconds >= max(2 * limits.outside, 2 * (limits.step or 0), COLLECTIVE_SECONDS)


def test_other_process_groups_have_the_same_timeout() -> None:
    """torch's default for NCCL is 10 minutes, whatever the first group has."""
    with alone():
        mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("replicas", "shards"))
        groups = [dist.group.WORLD, *mesh.get_all_groups(), dist.new_group([0])]
        share_timeout(12_345.0)
        for group in groups:
            assert group._get_backend(torch.device("cpu")).options._timeout == timedelta(seconds=12_345)
