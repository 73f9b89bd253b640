"""A process of the warm Python is the one that `python -m` would be."""

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.fake_run import name_of
from tests.support.warm import python

pytestmark = pytest.mark.slow
SAYS = """
import json, os, sys
umask = os.umask(0)
print(json.dumps([sys.argv[1:], sys.path[:2], os.environ["ONE"], os.getcwd(), umask, sys.stdin.read(), __name__]))
print("a warning", file=sys.stderr)
if sys.argv[1] == "message":
    sys.exit("the reason")
if sys.argv[1] == "raise":
    raise ValueError("wrong")
sys.exit(int(sys.argv[1]))
"""
WAITS = """
import os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGUSR1, lambda number, _: print("heard", flush=True))
Path(sys.argv[1]).write_text(str(os.getpid()))
while True:
    time.sleep(0.02)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "says.py").write_text(SAYS)
    (tmp_path / "waits.py").write_text(WAITS)
    return tmp_path


def run(program: str, folder: Path, *words: str, **variables: str) -> Any:
    done = subprocess.run(
        [program, "-m", *words], input="given", capture_output=True, text=True, check=False, cwd=folder, umask=0o27,
        env=os.environ | {"ONE": "two"} | variables,
    )  # fmt: skip
    *_, last = done.stderr.splitlines()
    return done.returncode, done.stdout, last


@pytest.mark.parametrize("end", ["0", "7", "message", "raise"])
def test_what_a_process_is_given_and_says_is_the_same(end: str, folder: Path) -> None:
    assert run(python(), folder, "says", end, "a b") == run(sys.executable, folder, "says", end, "a b")


def wait_for(file: Path) -> int:
    deadline = time.monotonic() + 60
    while not file.is_file() or not file.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(file.read_text())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signals_reach_the_process_and_its_end_is_passed_on(number: signal.Signals, folder: Path) -> None:
    process = subprocess.Popen([python(), "-m", "waits", "pid"], cwd=folder, stdout=subprocess.PIPE, stderr=-3)
    own = wait_for(folder / "pid")
    assert own != process.pid and process.stdout
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == b"heard\n"
    process.send_signal(number)
    assert process.wait(60) == -number
    deadline = time.monotonic() + 60
    while name_of(own):
        assert time.monotonic() < deadline, "it outlives the process that stands for it"
        time.sleep(0.02)


def test_a_process_and_its_client_may_end_together(folder: Path) -> None:
    """So that the server reads both events at once."""
    program = python(WARM_TEST="1")
    client = subprocess.Popen([program, "-m", "waits", "pid"], cwd=folder, stdout=subprocess.DEVNULL)
    own = wait_for(folder / "pid")
    server = int(status_of(own)[1])
    os.kill(server, signal.SIGSTOP)
    try:
        os.kill(own, signal.SIGKILL)
        while status_of(own)[0] != "Z":
            time.sleep(0.02)
        client.kill()
        client.wait(60)
    finally:
        os.kill(server, signal.SIGCONT)
    (folder / "nothing.py").touch()
    subprocess.run([program, "-m", "nothing"], cwd=folder, check=True)
    assert int(status_of(server)[1]) == os.getpid(), "it has ended"


def status_of(process: int) -> list[str]:
    """Returns the state of a process and its parent's id, as the kernel names them."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:2]


def is_loaded(folder: Path, *through: str, begin: Callable[[], object] | None = None, **variables: str) -> bool:
    """Returns whether torch is imported before a module says so. through, begin: what starts the process."""
    (folder / "loaded.py").write_text("import json, sys\nprint(json.dumps('torch' in sys.modules))")
    command = [*through, python(), "-m", "loaded"]
    return json.loads(subprocess.check_output(command, cwd=folder, env=os.environ | variables, preexec_fn=begin))


def test_other_variables_of_an_import_need_a_python_of_its_own(folder: Path) -> None:
    assert is_loaded(folder) and not is_loaded(folder, HF_ENDPOINT="http://127.0.0.1:1")
    assert not is_loaded(folder, SLURM_JOB_ID="7"), "its daemons count and signal the processes of a job"


def test_hidden_devices_make_no_difference_where_there_are_none(folder: Path) -> None:
    has_devices = torch.accelerator.current_accelerator() is not None
    assert is_loaded(folder, CUDA_VISIBLE_DEVICES="", HIP_VISIBLE_DEVICES="") is not has_devices
    assert not is_loaded(folder, CUDA_VISIBLE_DEVICES="0")


def test_what_lm_eval_sets_makes_no_difference(folder: Path) -> None:
    importlib.import_module("lm_eval")
    assert is_loaded(folder)


def test_other_limits_or_cores_need_a_python_of_its_own(folder: Path) -> None:
    """Which the server cannot give."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert not is_loaded(folder, begin=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard)))
    cores = os.sched_getaffinity(0)
    if len(cores) > 1:
        assert not is_loaded(folder, begin=lambda: os.sched_setaffinity(0, {min(cores)}))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make namespaces")
@pytest.mark.parametrize("namespace", ["--uts", "--net", "--mount"])
def test_other_namespaces_need_a_python_of_its_own(namespace: str, require: Any, folder: Path) -> None:
    assert not is_loaded(folder, require("unshare"), namespace)


def test_a_program_of_a_line_is_run_as_xdist_starts_its_workers(folder: Path) -> None:
    """And starts others with sys.executable as usual."""
    program = "import sys; print('torch' in sys.modules, __name__, sys.argv, sys.executable, sys.stdin.readline())"
    command = [python(), "-u", "-c", program]
    done = subprocess.run(command, input="a line", capture_output=True, text=True, check=True)
    assert done.stdout.rstrip() == f"True __main__ ['-c'] {sys.executable} a line"
