"""Programs that import torch, started as processes of their own: this one stays light, and outlives their crashes."""

import json
import os
import signal
import subprocess
import sys
from typing import Any

from distft.runtime.parent import start_bound


class Ended(RuntimeError):
    """A program that gave no answer: its last line, or how long it was waited for."""


def ask_program(module: str, *arguments: str, seconds: float) -> dict[str, Any]:
    """Returns the JSON that `python -m module` prints last; Ended when it fails or takes longer than `seconds`."""
    child = start_bound(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        said, complaint = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        raise Ended(f"no answer within {seconds:g} s") from None
    if child.returncode == 0 and said.strip():
        return json.loads(said.strip().splitlines()[-1])
    lines = [line for line in complaint.splitlines() if line.strip()]
    how = f"ended by {signal.Signals(-child.returncode).name}" if child.returncode < 0 else f"code {child.returncode}"
    raise Ended(lines[-1].strip() if lines else how)
