"""Synchronizations, idle time and kernels are read only from the marked steps of a trace."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from distft.prove.measured import MARK, kind_of, read_trace, waits


def event(name: str, cat: str, ts: float, dur: float, tid: int = 1, correlation: int | None = None) -> dict[str, Any]:
    args = {} if correlation is None else {"correlation": correlation}
    return {"ph": "X", "name": name, "cat": cat, "ts": ts, "dur": dur, "tid": tid, "args": args}


EVENTS = [
    {"ph": "M", "name": "process_name", "args": {}},
    event(MARK, "user_annotation", 100, 100),
    event(MARK, "user_annotation", 200, 100),
    event("cudaDeviceSynchronize", "cuda_runtime", 50, 5),  # before the steps: the profiler's own
    event("cudaLaunchKernel", "cuda_runtime", 110, 2, correlation=1),
    event("cudaLaunchKernel", "cuda_runtime", 290, 2, correlation=2),
    event("cudaStreamSynchronize", "cuda_runtime", 150, 20),
    event("cudaStreamSynchronize", "cuda_runtime", 250, 20),
    event("cudaMemcpyAsync", "cuda_runtime", 160, 2),
    event("cudaEventSynchronize", "cuda_runtime", 260, 5, tid=2),  # of the thread that prepares batches
    event("cudaDeviceSynchronize", "cuda_runtime", 310, 5),  # after them
    event("nvjet_tst_128x256_TNT", "kernel", 120, 50, tid=7, correlation=1),
    event("vectorized_elementwise_kernel", "kernel", 140, 40, tid=8),  # overlaps on another stream
    event("ncclDevKernel_AllReduce", "kernel", 310, 30, tid=7, correlation=2),  # launched in the last step
    event("nvjet_late", "kernel", 400, 500, tid=7, correlation=9),  # launched after it
]


def test_only_the_steps_own_thread_and_time_count() -> None:
    found = read_trace(EVENTS)
    assert found.steps == 2
    assert found.waits == {"cudaStreamSynchronize": 2} and found.waits_per_step == 1.0
    assert found.waits_elsewhere == 1


def test_the_device_idles_where_no_stream_computes() -> None:
    found = read_trace(EVENTS)
    assert found.span_seconds == pytest.approx(220e-6)  # 120 to 340
    assert found.busy_seconds == pytest.approx(90e-6)  # 120 to 180, 310 to 340
    assert found.idle_share == pytest.approx(1 - 90 / 220)
    assert found.kinds == pytest.approx({"products": 50e-6, "other": 40e-6, "communication": 30e-6})
    assert found.longest[0][0] == "nvjet_tst_128x256_TNT"


def test_a_trace_without_a_step_gives_no_figures() -> None:
    with pytest.raises(ValueError, match="no marked step"):
        read_trace(EVENTS[3:])


def test_the_mark_is_found_in_a_trace_of_torchs_own_profiler(tmp_path: Path) -> None:
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(2):
            with record_function(MARK):
                torch.ones(2).sum().item()
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    found = read_trace(json.loads((tmp_path / "trace.json").read_text())["traceEvents"])
    assert (found.steps, found.waits, found.idle_share) == (2, {}, None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cudaMemcpy", True), ("cudaMemcpyAsync", False), ("cudaStreamSynchronize", True), ("cudaEventQuery", False)],
)
def test_synchronizing_calls_are_reported_by_name(name: str, expected: bool) -> None:
    assert waits(name) == expected


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop", "attention"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdam>", "optimizer"),
        ("triton_red_fused_mul", "compiled"),
        ("Memcpy DtoD", "copies"),
    ],
)
def test_kernels_are_sorted_by_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind
