"""The recorded step is told by its dearest operations, in a run that a user asks for."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from distft.runtime.process_group import World
from distft.train.timing import TOP, Profile, table


def test_the_third_step_is_recorded_and_no_other(tmp_path: Path) -> None:
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


def test_an_error_in_the_step_is_the_one_that_is_told(tmp_path: Path) -> None:
    profile = Profile(tmp_path / "profile", 0, World(0, 1, 0, 1, torch.device("cpu")))
    with pytest.raises(RuntimeError, match="in the step"), profile.step(3):
        raise RuntimeError("in the step")
    assert not (tmp_path / "profile").exists()


def test_what_a_device_did_is_counted_once_though_it_is_listed_by_operation_and_by_kernel() -> None:
    def listed(key: str, seconds: float, where: str) -> SimpleNamespace:
        kind = SimpleNamespace(name=where)
        return SimpleNamespace(key=key, count=1, self_device_time_total=seconds * 1e6, device_type=kind)

    mm, add = listed("aten::mm", 3.0, "CPU"), listed("aten::add", 1.0, "CPU")
    kernels = [listed("sm90_xmma_gemm", 3.0, "CUDA"), listed("elementwise", 1.0, "CUDA")]
    text = table([mm, add, *kernels], 3, on_device=True)
    assert "| aten::mm | 1 | 3.000 | 75.0% |" in text and "All operations: 4.000 s" in text
    assert "sm90" not in text
