"""Runs a check in a separate process, which may lack a resource."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from distft.doctor.finding import Finding

PROGRAM = """
import json, sys
from pathlib import Path
from importlib import import_module
from distft.doctor.finding import run_check
module, name, given = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
given = [Path(each) if str(each).startswith("/") else each for each in given]
found = run_check(name, lambda: getattr(import_module(module), name)(*given))
print(json.dumps([each.as_json() for each in found]))
"""


def ask_check(
    module: str, name: str, *given: Any, through: Sequence[str] = (), start: Callable[[], None] | None = None
) -> list[Finding]:
    """Returns the findings of a check; through: a command to start it with, start: what its process does first."""
    command = [*through, sys.executable, "-c", PROGRAM, f"distft.doctor.{module}", name, json.dumps(given)]
    done = subprocess.run(command, preexec_fn=start, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return [Finding(**each) for each in json.loads(done.stdout.splitlines()[-1])]
