"""Accelerators are counted from system files and compared with torch's build."""

from itertools import product
from pathlib import Path

import pytest

from distft.machines import Build, Plugged, num_accelerators, plugged_in, torch_build, visible, wasted, without_driver

CPU, CUDA, ROCM = Build("2.13.0+cpu", None, None), Build("2.13.0", "13.0", None), Build("2.13.0", None, "7.1")


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch: pytest.MonkeyPatch):
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def write(folder: Path, **lines: object) -> None:
    folder.mkdir(parents=True)
    (folder / "properties").write_text("".join(f"{name} {value}\n" for name, value in lines.items()))


def test_a_machine_without_accelerators_has_none(tmp_path: Path):
    assert num_accelerators(tmp_path, tmp_path, tmp_path) == 0


def test_cuda_devices_are_counted_without_control_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert num_accelerators(tmp_path, tmp_path, tmp_path) == 3
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "")
    assert num_accelerators(tmp_path, tmp_path, tmp_path) == 3, "hides none of NVIDIA's"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert num_accelerators(tmp_path, tmp_path, tmp_path) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert num_accelerators(tmp_path, tmp_path, tmp_path) == 0


def test_kfd_nodes_of_cpus_and_integrated_gpus_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "kfd").touch()
    for node, (simds, size) in enumerate([(0, 0), (256, 64 * 2**30), (256, 64 * 2**30), (8, 2**29)]):
        folder = tmp_path / "class/kfd/kfd/topology/nodes" / str(node)
        write(folder, cpu_cores_count=8, simd_count=simds)
        write(folder / "mem_banks/0", heap_type=1, size_in_bytes=size)
        write(folder / "mem_banks/1", heap_type=0, size_in_bytes=2**40)
    assert plugged_in(tmp_path, tmp_path, tmp_path) == Plugged("AMD", 2)
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "1")
    assert num_accelerators(tmp_path, tmp_path, tmp_path) == 1
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "0,1")  # among those that ROCR leaves
    assert num_accelerators(tmp_path, tmp_path, tmp_path) == 1


def test_a_list_of_devices_is_counted_as_torch_counts_it(monkeypatch: pytest.MonkeyPatch):
    import torch.cuda

    words = ["0", " 1", "2", "-1", "7", "", "x", "+1", "1x"]
    for count in (1, 2, 3):
        for chosen in product(words, repeat=count):
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(chosen))
            parsed = torch.cuda._parse_visible_devices()  # stops at -1 and words; empty when one comes twice
            within = next((i for i, index in enumerate(parsed) if int(index) >= 4), len(parsed))
            assert visible(",".join(chosen), 4) == within, chosen


UUIDS = ["GPU-aa11", "GPU-ab22", "GPU-cc33"]


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        (None, 3), ("", 0), (" ", 0), ("GPU-aa", 1), ("GPU-aa,GPU-cc", 2), ("GPU-aa11,GPU-aa", 0), ("GPU-a", 0),
        ("GPU-cc,GPU-dd,GPU-aa", 1), ("GPU-aa,0", 1), ("0,GPU-aa", 1), ("MIG-1", 1), ("MIG-1,MIG-2", 1),
        ("NoDevFiles", 0), ("0 1", 1),
    ],
)  # fmt: skip
def test_a_uuid_prefix_names_a_device(asked: str | None, count: int):
    assert visible(asked, 3, UUIDS) == count
    assert visible("GPU-dead,GPU-beef", 3) == 2, "where no UUID can be read, what is named is there"


def test_uuids_are_those_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for number, uuid in enumerate(UUIDS):
        (tmp_path / f"nvidia{number}").touch()
        folder = tmp_path / "driver/nvidia/gpus" / f"0000:0{number}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t NVIDIA H200\nGPU UUID: \t {uuid}\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-ab,GPU-nowhere")
    assert num_accelerators(tmp_path, tmp_path, tmp_path) == 1


@pytest.mark.parametrize(
    ("plugged", "build", "why", "said"),
    [
        (Plugged("NVIDIA", 2), CPU, "", "2 NVIDIA devices are plugged in, and torch 2.13.0+cpu, built for CPU"),
        (Plugged("NVIDIA", 1), ROCM, "", "1 NVIDIA device is plugged in, and torch 2.13.0, built for ROCm 7.1"),
        (Plugged("AMD", 4), CUDA, "", "cannot use them. Try: a ROCm build of torch (https"),
        (
            Plugged("NVIDIA", 1),
            CUDA,
            "The driver is too old",
            "cannot use it: The driver is too old. Try: a newer driver",
        ),
        (Plugged("NVIDIA", 2), CUDA, "", None),
        (Plugged("AMD", 2), ROCM, "", None),
        (Plugged("NVIDIA", 0), CPU, "", None),
        (Plugged("NVIDIA", 2), None, "", None),
    ],
    ids=str,
)
def test_devices_that_torch_cannot_use_are_reported_with_a_fix(
    plugged: Plugged, build: Build | None, why: str, said: str | None
):
    reported = wasted(plugged, build, why)
    assert (reported is None) == (said is None)
    if reported and said:
        assert said in reported and f"{plugged.variable}= before the command" in reported


def test_torchs_build_is_read_without_importing_it():
    import torch

    assert torch_build() == Build(torch.__version__, torch.version.cuda, torch.version.hip)


def test_a_gpu_without_a_driver_is_reported_unless_cpu_is_set(tmp_path: Path):
    for number, (vendor, kind) in enumerate([("0x10de", "0x030200"), ("0x10de", "0x040300"), ("0x1af4", "0x030000")]):
        folder = tmp_path / "bus/pci/devices" / f"0000:00:0{number}.0"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{kind}\n")
    reported = without_driver(tmp_path, tmp_path, {})
    assert reported and reported.startswith("1 NVIDIA GPU on the PCI bus") and "CUDA_VISIBLE_DEVICES=" in reported
    assert without_driver(tmp_path, tmp_path, {"CUDA_VISIBLE_DEVICES": ""}) is None
    (tmp_path / "nvidia0").touch()
    assert without_driver(tmp_path, tmp_path, {}) is None
