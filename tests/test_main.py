"""`distft COMMAND` is `python -m distft.COMMAND`."""

import subprocess
import sys
from importlib.metadata import version

import pytest

from distft.cli import available
from tests.support.warm import python


def distft(*words: str, program: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, "-m", "distft", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help_lists_every_command_with_its_purpose(words):
    done = distft(*words)
    assert done.returncode == 0
    for name in ("launch", "plan", "prepare", "export", "report"):
        [line] = [line for line in done.stdout.splitlines() if line.split()[:1] == [name]]
        assert len(line.split()) > 3


@pytest.mark.parametrize("name", sorted(available()))
@pytest.mark.slow
def test_every_command_answers_help_with_its_keys(name):
    done = distft(name, "--help", program=python())
    assert done.returncode == 0 and done.stderr == ""
    assert f"distft.{name}" in done.stdout


@pytest.mark.slow
def test_a_command_gets_the_arguments_after_its_name():
    done = distft("plan", "no_such_key=1")
    assert done.returncode == 2 and "no_such_key" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_unknown_command_is_refused_with_the_list():
    done = distft("lunch")
    assert done.returncode == 2 and "distft lunch: no such command. Did you mean launch?" in done.stderr
    assert "COMMAND" not in done.stderr, "the likely one is enough"
    assert distft("xyzzy").stderr.startswith("distft xyzzy: no such command.\n")


def test_the_version_is_printed():
    done = distft("--version")
    assert done.returncode == 0 and done.stdout == f"distft {version('distft')}\n"
