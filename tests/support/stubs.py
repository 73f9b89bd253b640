"""Stubs of cluster programs, for answers that the practice cluster does not give on demand."""

import os
import shlex
from pathlib import Path

import pytest

from distft.launchers.slurm import commands

RECORDED = Path(__file__).with_name("recorded")  # what programs of SLURM 22.05.8 printed on the practice cluster


def only_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `folder`, without a program of SLURM in it yet, the first folder of PATH."""
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name in ("SECONDS_OF_COMMAND", "SECONDS_OF_JOB", "_SECONDS_BETWEEN_QUESTIONS"):
        monkeypatch.setattr(commands, name, 0.0)  # a controller that is away stays so, unless a test says otherwise


def stub(folder: Path, name: str, script: str) -> None:
    """Writes a program into `folder` that records its arguments in NAME.calls and runs `script`."""
    calls = shlex.quote(str(folder / f"{name}.calls"))
    note = f'printf "%s\\n" "$(printf "%s\\t" "$@")" >> {calls}'
    file = folder / name
    file.write_text(f"#!/usr/bin/env bash\n{note}\n{script}\n")
    file.chmod(0o755)


def stub_recorded(folder: Path, name: str, recorded: str) -> None:
    """Writes a program into `folder` that prints what the real one printed."""
    stub(folder, name, f"cat {shlex.quote(str(RECORDED / recorded))}")


def calls(folder: Path, name: str) -> list[list[str]]:
    """Returns the arguments of every call of a stub, in order."""
    file = folder / f"{name}.calls"
    return [line.rstrip("\t").split("\t") for line in file.read_text().splitlines()] if file.is_file() else []
