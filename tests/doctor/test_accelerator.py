"""torch is asked in a process of its own: missing, broken or hanging, it is told and the rest goes on."""

from pathlib import Path

import pytest

from distft.doctor.finding import Ended, ask_program
from distft.doctor.machine import check_deepspeed, check_torch


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Gives `broken(name, text)`: puts a module in the way of the installed one, for the processes that are started."""
    monkeypatch.syspath_prepend(tmp_path)
    import os

    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    return lambda name, text: (tmp_path / f"{name}.py").write_text(text)


def test_torch_and_deepspeed_are_described() -> None:
    torch, accelerator = check_torch()
    assert torch.state == accelerator.state == "ok" and "collectives: gloo" in torch.seen
    [deepspeed] = check_deepspeed()
    assert "cpu_adam" in deepspeed.seen


def test_devices_that_torch_does_not_see_are_a_problem(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"nvidia{number}").touch()
    torch, accelerator = check_torch(tmp_path)
    assert accelerator.state == "problem"
    build = torch.seen.partition("built for ")[2].partition(";")[0]
    assert accelerator.seen == f"none seen by torch, 4 plugged in, which is built for {build}"
    assert build == "CPU" or build.startswith(("CUDA 1", "ROCm"))
    assert "pytorch.org" in accelerator.remedy


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("raise ModuleNotFoundError(\"No module named 'torch'\")", "No module named 'torch'"),
        ("raise OSError('libcudart.so.12: cannot open shared object file')", "libcudart.so.12"),
        ("import os; os.kill(os.getpid(), 11)", "ended by SIGSEGV"),
    ],
)
def test_a_broken_library_is_told(broken, text: str, seen: str) -> None:
    for name, check in (("torch", check_torch), ("deepspeed", check_deepspeed)):
        broken(name, text)
        [found] = check()
        assert found.state == "problem" and seen in found.seen, found
        assert "pip install" in found.remedy
        broken(name, "")


def test_a_library_that_hangs_is_left(broken) -> None:
    broken("torch", "import time; time.sleep(60)")
    with pytest.raises(Ended, match="no answer within 1 s"):
        ask_program("distft.doctor.libraries", "torch", seconds=1)
