"""A forked process inherits its parent's modules only.

A rank runs its exit functions, and does not tear down its interpreter under foreign threads.
A bound process dies with the one that started it.
Garbage collection is off during imports, and later collections skip their objects.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import os, signal, sys, tempfile, time
from distft.runtime.process import fork
def child(): {child}
{setup}
process = fork("a child of ours", child)
process.join({patience})
print(process.exitcode, process.pid, flush=True)
{after}
"""


def parent(child: str, setup: str = "", after: str = "", patience: str = "60") -> str:
    return PARENT.format(child=child, setup=setup, after=after, patience=patience)


def said(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert not done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_its_exit_does_not_run_the_parents_cleanup():
    kept = "folder = tempfile.TemporaryDirectory()"
    leave = "from distft.runtime.process import leave; leave()"
    code, _, is_there = said(parent(leave, kept, "print(os.path.isdir(folder.name))"))
    assert (code, is_there) == ("0", "True")


def test_handled_signals_are_reset_and_ignored_ones_kept():
    handled = "signal.signal(signal.SIGTERM, lambda *_: None); signal.signal(signal.SIGUSR1, signal.SIG_IGN)"
    both = "os.kill(os.getpid(), signal.SIGUSR1); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    assert said(parent(both, handled))[0] == str(-signal.SIGTERM)


def test_ctrl_c_interrupts_it_like_any_python():
    program = "import signal; sys.exit(7 * (signal.getsignal(signal.SIGINT) is signal.default_int_handler))"
    assert said(parent(program, "signal.signal(signal.SIGINT, lambda *_: None)"))[0] == "7"


def test_the_signal_mask_of_the_parent_is_restored():
    setup = "before = signal.pthread_sigmask(signal.SIG_BLOCK, [])"
    after = "print(signal.pthread_sigmask(signal.SIG_BLOCK, []) == before)"
    child = "sys.exit(len(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    code, _, same = said(parent(child, setup, after))
    assert (code, same) == ("0", "True")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_it_dies_with_its_parent_and_has_its_own_group():
    program = parent("time.sleep(600)", patience="0.5", after="time.sleep(600)")
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    code, child = process.stdout.readline().split()
    assert code == "None" and alive(int(child))
    assert Path(f"/proc/{child}/comm").read_text() == "a child of ours\n"
    assert os.getpgid(int(child)) == int(child)
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 60
    while alive(int(child)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


PROGRAM = """
import atexit, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from distft.runtime.process import leave

class Last:
    def __del__(self):
        print("taken down")

sys.kept = Last()
atexit.register(print, "registered")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
sys.pool = ThreadPoolExecutor(1)  # its worker waits for work until the pool is shut down
sys.pool.submit(int).result()
threading.Thread(target=time.sleep, args=[600], daemon=True).start()
print("unflushed", end=" ")
leave()
"""


@pytest.mark.slow
def test_threads_and_exit_functions_finish_before_it_ends():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=240)
    assert (done.returncode, done.stdout, done.stderr) == (0, "unflushed thread\nregistered\n", "")


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


@pytest.mark.slow
def test_a_process_whose_parent_was_gone_already_dies_at_once():
    program = "from distft.runtime.process import die_with_parent; die_with_parent(1234567); print('alive')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL and done.stdout == ""


@pytest.mark.slow
def test_a_process_whose_parent_lives_continues():
    program = f"from distft.runtime.process import die_with_parent; die_with_parent({os.getpid()}); print('alive')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "alive\n"


IMPORTS_PROGRAM = """
import gc
from distft.runtime.process import uncollected
collections = []
gc.callbacks.append(lambda phase, info: collections.append(info["generation"]))
try:
    with uncollected():
        kept = [[] for _ in range(100_000)]
        inside = len(collections)
        raise ImportError
except ImportError:
    print(inside, gc.isenabled(), gc.get_freeze_count() > 100_000)
kept = [[] for _ in range(100_000)]
print(len(collections) > 0)
"""


@pytest.mark.slow
def test_garbage_collection_is_paused_and_always_resumed():
    done = subprocess.run([sys.executable, "-c", IMPORTS_PROGRAM], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["0", "True", "True", "True"], done.stderr
