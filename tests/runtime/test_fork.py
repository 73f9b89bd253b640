"""A forked process has its parent's modules and nothing else of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runtime.test_parent import alive

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


def test_its_end_does_not_clean_up_after_its_parent():
    kept = "folder = tempfile.TemporaryDirectory()"
    leave = "from distft.runtime.process import leave; leave()"
    code, _, is_there = said(parent(leave, kept, "print(os.path.isdir(folder.name))"))
    assert (code, is_there) == ("0", "True")


def test_a_signal_that_its_parent_handles_ends_it_and_one_that_is_ignored_is_ignored():
    handled = "signal.signal(signal.SIGTERM, lambda *_: None); signal.signal(signal.SIGUSR1, signal.SIG_IGN)"
    both = "os.kill(os.getpid(), signal.SIGUSR1); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    assert said(parent(both, handled))[0] == str(-signal.SIGTERM)


def test_ctrl_c_interrupts_it_as_any_python():
    program = "import signal; sys.exit(7 * (signal.getsignal(signal.SIGINT) is signal.default_int_handler))"
    assert said(parent(program, "signal.signal(signal.SIGINT, lambda *_: None)"))[0] == "7"


def test_both_let_through_the_signals_that_its_parent_did_before():
    setup = "before = signal.pthread_sigmask(signal.SIG_BLOCK, [])"
    after = "print(signal.pthread_sigmask(signal.SIG_BLOCK, []) == before)"
    child = "sys.exit(len(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    code, _, same = said(parent(child, setup, after))
    assert (code, same) == ("0", "True")


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_it_dies_with_its_parent_and_has_a_name_and_a_group_of_its_own():
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
