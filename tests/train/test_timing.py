"""Seconds are reported once per phase; those of an accelerator when its work is done, without waiting for it.

MFU has a denominator that is known by name, and an MFU above 1 is an error.
The profiled step is summarized by its most expensive operations, in a run with train.profile.
"""

import gzip
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from distft.runtime.heartbeat import WORK
from distft.runtime.process_group import World
from distft.train import timing
from distft.train.health import Stragglers, rank_stats
from distft.train.timing import TOP, Clock, Mfu, OwnWork, Peak, Profile, peak_of, table
from tests.support.accelerator import CUDA_1, Device, stand_in


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return stand_in(monkeypatch)


def test_phases_add_up_and_are_reported_once() -> None:
    clock = Clock(torch.device("cpu"))
    for name, seconds in (("forward", 0.02), ("backward", 0.01), ("forward", 0.02)):
        with clock.phase(name):
            time.sleep(seconds)
    reported = clock.take()
    assert set(reported) == {"forward", "backward"}
    assert reported["forward"] >= 0.04 and reported["backward"] >= 0.01
    assert clock.take() == {}


def test_pending_device_work_is_in_the_next_reading(device: Device) -> None:
    clock = Clock(CUDA_1)
    with clock.phase("forward"):
        device.launch(20)
    device.finish()
    with clock.phase("optimizer"):
        device.launch(7)
    assert clock.take() == {"forward": 0.02}
    assert clock.take() == {}
    device.finish()
    assert clock.take() == {"optimizer": 0.007}


def test_device_times_are_reported_with_the_next_step(device: Device) -> None:
    """Not those of an evaluation, nor the ones that backward makes again."""
    clock, block = Clock(CUDA_1), nn.Linear(2, 2)
    block.register_forward_pre_hook(lambda *_: device.launch(100))  # waits for its weights, as a strategy's hook does
    block.register_forward_hook(lambda *_: device.launch(1000))  # frees them again
    own = OwnWork([block], clock)
    real = block.forward

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        device.launch(3)
        return real(hidden)

    block.forward = forward
    reported = []
    for cost in (5.0, 7.0, 9.0):
        with clock.phase("forward"):
            block(torch.ones(2))
            block(torch.ones(2))
        with clock.phase("backward"):
            block(torch.ones(2))
        reported.append(own.of_step(cost))
        device.finish()
        block(torch.ones(2))
    own.close()
    forward_at = WORK.index("forward")
    assert [(seconds[forward_at], cost) for seconds, cost in reported] == [(0.0, 0.0), (0.006, 5.0), (0.006, 7.0)]
    with clock.phase("forward"):
        block(torch.ones(2))
    assert own.of_step(1.0) == ([0.0, 0.006, 0.0, 0.0], 9.0), "its hooks are gone"


def test_a_rank_with_a_slow_device_is_named(device: Device) -> None:
    world, clocks = 2, [Clock(CUDA_1) for _ in range(2)]
    blocks = [nn.Identity(), nn.Identity()]
    owns = [OwnWork([block], clock) for block, clock in zip(blocks, clocks, strict=True)]
    for rank, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda *_, rank=rank: device.launch(10 * (1 + rank)))
    names, said = Stragglers(["a", "b"]), []
    for _ in range(20):
        reported = torch.zeros(world * (len(WORK) + 1))
        for rank, (own, clock) in enumerate(zip(owns, clocks, strict=True)):
            with clock.phase("forward"):
                blocks[rank](torch.ones(2))
            reported += torch.tensor(rank_stats(*own.of_step(5.0), World(rank, world, rank, world, CUDA_1)))
        device.finish()
        said += names.of(reported.tolist())
    [text] = said
    assert text.startswith("rank 1 on b is slow in forward: 0.02 s")


@pytest.mark.slow
def test_an_unlisted_device_is_measured() -> None:
    peak = peak_of(torch.device("cpu"), torch.float32)
    assert 1e8 < peak.flops < 1e14
    assert re.match(r"measured float32 product of (256x256|512x512|1024x1024) matrices, \d+ threads$", peak.source)


def test_the_fastest_product_is_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of bf16 on a processor without it, whose large products are slower than a step's small ones."""
    monkeypatch.setattr(timing, "_measured", lambda device, dtype, size: {256: 2e9, 512: 3e9, 1024: 1e9}[size])
    peak = peak_of(torch.device("cpu"), torch.bfloat16)
    assert peak.flops == 3e9 and peak.source.startswith("measured bfloat16 product of 512x512 matrices")


def test_a_slow_product_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1024x1024 matrices in bf16 one took 2 s with AVX2, and each run would wait for six of them."""
    sizes: list[int] = []
    monkeypatch.setattr(timing, "_measured", lambda device, dtype, size: sizes.append(size) or 1.4e9)
    assert peak_of(torch.device("cpu"), torch.bfloat16).flops == 1.4e9
    assert sizes == [256, 256, 256, 512], "2 x 512^3 / 1.4e9 is 0.19 s"


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


def test_an_unlisted_accelerator_is_measured_by_large_matmuls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In fp32 the data sheet's figure of bf16 is not its peak either."""
    sizes: list[int] = []
    monkeypatch.setattr(timing, "_measured", lambda device, dtype, size: sizes.append(size) or 1e10 * size)
    assert peak_of(torch.device("cuda"), torch.float32).flops == 8192e10
    assert min(sizes) == 4096


@pytest.mark.slow
def test_measured_matmuls_have_random_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal bits cost an accelerator less power, and it then makes more products than of anything a model holds."""
    seen: list[float] = []
    real = torch.Tensor.__matmul__

    def watched(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        seen.extend((left.float().std().item(), right.float().std().item()))
        return real(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    peak_of(torch.device("cpu"), torch.float32)
    assert min(seen) > 0.9


def test_only_the_third_step_is_profiled(tmp_path: Path) -> None:
    profile = Profile(tmp_path, 4, World(0, 1, 0, 1, torch.device("cpu")))
    for step in (5, 6, 7, 8):
        with profile.step(step):
            torch.ones(300, 300) @ torch.ones(300, 300)
            torch.ones(step).sin()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["rank-0.json.gz", "step-7.md"]
    trace = json.loads(gzip.decompress((tmp_path / "rank-0.json.gz").read_bytes()))
    names = {event["name"] for event in trace["traceEvents"]}
    assert {"aten::mm", "aten::sin"} <= names
    rows = [
        line.split(" | ") for line in (tmp_path / "step-7.md").read_text().splitlines() if line.startswith("| aten")
    ]
    shares = [float(row[-1].rstrip(" |%")) for row in rows]
    assert 2 <= len(rows) <= TOP and shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=1) and "| aten::mm" in [row[0] for row in rows]


def test_an_error_in_the_profiled_step_is_raised(tmp_path: Path) -> None:
    profile = Profile(tmp_path / "profile", 0, World(0, 1, 0, 1, torch.device("cpu")))
    with pytest.raises(RuntimeError, match="in the step"), profile.step(3):
        raise RuntimeError("in the step")
    assert not (tmp_path / "profile").exists()


def test_device_time_is_not_counted_by_operator_and_kernel() -> None:
    def listed(key: str, seconds: float, where: str) -> SimpleNamespace:
        kind = SimpleNamespace(name=where)
        return SimpleNamespace(key=key, count=1, self_device_time_total=seconds * 1e6, device_type=kind)

    mm, add = listed("aten::mm", 3.0, "CPU"), listed("aten::add", 1.0, "CPU")
    kernels = [listed("sm90_xmma_gemm", 3.0, "CUDA"), listed("elementwise", 1.0, "CUDA")]
    text = table([mm, add, *kernels], 3, on_device=True)
    assert "| aten::mm | 1 | 3.000 | 75.0% |" in text and "All operations: 4.000 s" in text
    assert "sm90" not in text
