"""Nothing is collected while libraries are imported, and what they made stays out of later collections."""

import subprocess
import sys

PROGRAM = """
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


def test_collections_wait_and_go_on_whatever_happens():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["0", "True", "True", "True"], done.stderr
