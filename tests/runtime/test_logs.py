"""Everything a process prints is in its log, and a broken terminal does not end it.

Known noise of libraries is filtered; the user's own settings are kept.
"""

import fcntl
import os
import subprocess
import sys
import threading
import time

import pytest

from distft.runtime.logs import Patient, last_lines


def test_python_child_and_crash_output_goes_to_the_log(tmp_path):
    log = tmp_path / "logs" / "rank-0.log"
    program = f"""
import faulthandler, os, sys
from pathlib import Path
from distft.runtime.logs import redirect
redirect(Path({str(log)!r}))
print("python")
print("error", file=sys.stderr)
os.system("echo child")
os.write(1, b"library\\n")
faulthandler._sigsegv()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode < 0 and done.stdout == done.stderr == ""
    lines = log.read_text().splitlines()
    assert lines[:4] == ["python", "error", "child", "library"]
    assert "Segmentation fault" in lines[4]


def test_an_existing_log_is_appended_to(tmp_path):
    log = tmp_path / "log"
    log.write_text("from the interpreter's start\n")
    program = (
        f"from pathlib import Path; from distft.runtime.logs import redirect; redirect(Path({str(log)!r})); print(1)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert log.read_text() == "from the interpreter's start\n1\n"


def test_last_lines_read_only_the_end_of_a_huge_log(tmp_path):
    log = tmp_path / "log"
    assert last_lines(log, 2) == []
    log.write_text("x" * 100_000 + "\nfirst\n\nsecond \n\n")
    assert last_lines(log, 2) == ["first", "second"]


def test_a_closed_pipe_is_written_to_without_an_error():
    read, write = os.pipe()
    stream = Patient(os.fdopen(write, "w"))
    os.close(read)
    for _ in range(3):
        assert stream.write("nobody reads this\n") == 18
        stream.flush()


def test_an_unread_pipe_does_not_block_the_writer(monkeypatch):
    monkeypatch.setattr(Patient, "SECONDS", 0.1)
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    stream = Patient(os.fdopen(write, "w"))
    started = time.monotonic()
    for number in range(200):
        stream.write(f"{number:099}\n")
    assert time.monotonic() - started < 5, "it waits once, not for each line"
    seen = os.read(read, 65536)
    assert seen.startswith(b"0" * 98) and b"199\n" not in seen
    stream.write("here again\n")
    assert os.read(read, 65536) == b"here again\n"


@pytest.mark.slow
def test_a_slow_reader_of_a_pipe_gets_everything():
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    stream, seen = Patient(os.fdopen(write, "w")), bytearray()

    def read_slowly() -> None:
        while len(seen) < 20_001:
            time.sleep(0.01)
            seen.extend(os.read(read, 1000))

    reader = threading.Thread(target=read_slowly)
    reader.start()
    stream.write("é" * 10_000 + "\n")
    reader.join()
    assert seen.decode() == "é" * 10_000 + "\n"


NOISY = """
from distft.runtime.logs import silence
silence()
import logging, warnings, os
warnings.warn("`torch.distributed.reduce_op` is deprecated, please use ...", FutureWarning)
logging.getLogger("DeepSpeed").warning("noise")
warnings.warn("the loss is nan", UserWarning)
print(os.environ["TRANSFORMERS_VERBOSITY"])
"""


def run(**variables: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"}
    return subprocess.run(
        [sys.executable, "-c", NOISY], capture_output=True, text=True, check=True, env=env | variables
    )


def test_noise_is_hidden_and_warnings_for_the_user_are_not():
    done = run()
    assert "reduce_op" not in done.stderr and "noise" not in done.stderr
    assert "the loss is nan" in done.stderr


def test_a_verbosity_that_the_user_chose_stays():
    assert run().stdout == "error\n"
    assert run(TRANSFORMERS_VERBOSITY="info").stdout == "info\n"
