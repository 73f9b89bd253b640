"""Runs shell text from the docs and from launch/ in an empty folder, with `python -m distft.launch` made small.

The first `python` in PATH is a wrapper: a launch makes one step of a tiny random model, or is replaced by a plan (for a
sweep, by the plan of every job). Everything else is real.
"""

import os
import subprocess
from pathlib import Path

from tests.support.warm import python

SHIM = """#!/bin/bash
if [ "$1 $2" != "-m distft.launch" ]; then exec {python} "$@"; fi
arguments=()
for argument in "${{@:3}}"; do
    if [[ $argument != model.path=* ]]; then arguments+=("$argument"); fi
done
if [ {command} = launch ]; then arguments+=(model.tiny=true train.max_steps=1); fi
exec {python} -m distft.{command} "${{arguments[@]}}"
"""


def shell(text: str, folder: Path, *, as_plan: bool = False, timeout: float = 480) -> subprocess.CompletedProcess[str]:
    """Returns the finished bash; its `python` is this one, and its caches are under `folder`."""
    programs = folder / ".programs"
    programs.mkdir(exist_ok=True)
    shim = programs / "python"
    command = "plan" if as_plan else "launch"
    shim.write_text(SHIM.format(python=python(), command=command))
    shim.chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
