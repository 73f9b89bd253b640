"""A process of the warm Python is the one that `python -m` would be."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

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


def test_other_variables_of_an_import_need_a_python_of_its_own(folder: Path) -> None:
    (folder / "loaded.py").write_text("import json, sys\nprint(json.dumps('torch' in sys.modules))")

    def is_loaded(**variables: str) -> bool:
        command = [python(), "-m", "loaded"]
        return json.loads(subprocess.check_output(command, cwd=folder, env=os.environ | variables))

    assert is_loaded() and not is_loaded(HF_ENDPOINT="http://127.0.0.1:1")
