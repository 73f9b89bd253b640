"""Accelerators are counted from the system's own files."""

from pathlib import Path

import pytest

from distft.config.accelerators import num_accelerators


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch: pytest.MonkeyPatch):
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def test_a_machine_without_any_has_none(tmp_path: Path):
    assert num_accelerators(tmp_path, tmp_path) == 0


def test_cuda_devices_are_counted_and_their_control_files_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert num_accelerators(tmp_path, tmp_path) == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert num_accelerators(tmp_path, tmp_path) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert num_accelerators(tmp_path, tmp_path) == 0


def test_of_kfds_nodes_the_cpus_are_left_out(tmp_path: Path):
    (tmp_path / "kfd").touch()
    for node, simds in enumerate((0, 256, 256)):
        folder = tmp_path / "class/kfd/kfd/topology/nodes" / str(node)
        folder.mkdir(parents=True)
        (folder / "properties").write_text(f"cpu_cores_count 8\nsimd_count {simds}\n")
    assert num_accelerators(tmp_path, tmp_path) == 2
