"""A rank does what was registered for its end, and its interpreter is not taken down under threads that are not its."""

import subprocess
import sys

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
sys.pool = ThreadPoolExecutor(1)  # its worker waits for more until it is told that there will be none
sys.pool.submit(int).result()
threading.Thread(target=time.sleep, args=[600], daemon=True).start()
print("unflushed", end=" ")
leave()
"""


def test_threads_and_registered_functions_come_to_their_end_and_nothing_after_them():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=240)
    assert (done.returncode, done.stdout, done.stderr) == (0, "unflushed thread\nregistered\n", "")
