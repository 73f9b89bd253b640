"""A rank runs a function of distft or of a trusted prefix, and its errors are explained."""

from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from distft import machines
from distft.config.compose import compose
from distft.config.freeze import frozen_text
from distft.config.parts import Launcher
from distft.plan.make import make_plan
from distft.rank import TRAIN, check_devices, find_work
from distft.run import RunFolder
from distft.train.oom_probe import OutOfMemory, explain_out_of_memory


def test_a_rank_function_is_distfts_or_of_a_trusted_prefix():
    assert find_work(TRAIN, []).__module__ == "distft.worker"
    assert find_work("json.dumps", ["json"]).__module__ == "json"
    for name, trust in (("os.abort", []), ("json.dumps", ["js"]), ("distfty.x", [])):
        with pytest.raises(ValueError, match=f"work={name}: code is run from distft.* only. Try: work={TRAIN}"):
            find_work(name, trust)


def test_a_failed_allocation_is_reported_with_plan_and_advice(tmp_path: Path):
    """torch's own error, on a CPU; an accelerator's has a class of its own."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 40)
    config = compose(["model.tiny=true", f"data.train={tmp_path}/rows.jsonl", "strategy=zero2"])
    run = RunFolder(tmp_path)
    run.config.write_text(frozen_text(config))
    run.write_plan(make_plan(config))

    def explain() -> AbstractContextManager[None]:
        return explain_out_of_memory(run, "zero2", config.data.max_length, config.train.activation_checkpointing)

    expected = r"tried to allocate \d+ bytes\. Planned for a process under zero2: .* Try: "
    with pytest.raises(OutOfMemory, match=expected), explain():
        torch.empty(2**58)
    with pytest.raises(OutOfMemory, match=r"tried to allocate 2.00 GiB"), explain():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
    for said in (
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "NCCL error: unhandled cuda error, Cuda failure 2 'out of memory'",
        "HIP error: hipErrorOutOfMemory out of memory",
        "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    ):
        with pytest.raises(OutOfMemory), explain():
            raise RuntimeError(said)
    with pytest.raises(RuntimeError, match=r"^another$"), explain():
        raise RuntimeError("another")


def test_a_rank_without_any_of_the_devices_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """For example, the driver is too old; a job that requested no device may be on a node that has some."""
    monkeypatch.setattr(machines, "plugged_in", lambda: machines.Plugged("NVIDIA", 2))
    monkeypatch.delenv("SLURM_GPUS_ON_NODE", raising=False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    check_devices(Launcher(gpus_per_node=None))
    for launcher in (Launcher(), Launcher(gpus_per_node=2)):
        with pytest.raises(
            RuntimeError, match=r"2 NVIDIA devices .* cannot use them: .+ Try: .* CUDA_VISIBLE_DEVICES="
        ):
            check_devices(launcher)
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "2")
    with pytest.raises(RuntimeError, match="cannot use them"):
        check_devices(Launcher(gpus_per_node=None))
