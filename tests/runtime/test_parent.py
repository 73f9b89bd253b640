"""A bound process dies with the one that started it."""

import os
import signal
import subprocess
import sys
import time

START = """
import sys
from distft.runtime.process import start_bound
child = start_bound([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
child.wait()
"""


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_bound_process_is_gone_after_its_parent_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()  # not communicate: the child would hold the pipe open
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_process_whose_parent_was_gone_already_dies_at_once():
    program = "from distft.runtime.process import die_with_parent; die_with_parent(1234567); print('alive')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL and done.stdout == ""


def test_a_process_whose_parent_lives_goes_on():
    program = f"from distft.runtime.process import die_with_parent; die_with_parent({os.getpid()}); print('alive')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "alive\n"
