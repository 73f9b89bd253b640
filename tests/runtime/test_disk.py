"""One process at a time holds the lock of a run folder, until it ends."""

import os
import subprocess
import sys

from distft.runtime.disk import alone

HOLD = """
import sys, time
from pathlib import Path
from distft.runtime.disk import alone
with alone(Path(sys.argv[1])) as held:
    print(held, flush=True)
    time.sleep(60)
"""


def test_a_lock_is_refused_while_another_holds_it(tmp_path):
    path = tmp_path / "run" / ".lock"
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None and first.stdout.readline() == "True\n"
    with alone(path) as held:
        assert not held
    first.kill()
    first.communicate()
    with alone(path) as held:
        assert held
    with alone(path) as held:
        assert held


def test_a_forked_process_keeps_the_lock(tmp_path):
    path = tmp_path / ".lock"
    read, write = os.pipe()
    with alone(path):
        child = os.fork()
        if child == 0:
            os.read(read, 1)
            os._exit(0)
    with alone(path) as held:
        assert not held
    os.write(write, b"x")
    os.waitpid(child, 0)
    with alone(path) as held:
        assert held
