"""Runs a file, or a program's text, as the main module: `python -m tests.support.program FILE|TEXT [ARGUMENTS]`."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        exec(compile(sys.argv[0], "<program>", "exec"), {"__name__": "__main__"})
