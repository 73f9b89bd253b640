"""The demo reuses existing files and is one launch."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distft.demo import __main__ as demo


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A cache that already has the model and the rows."""
    (tmp_path / "demo/smollm2-135m-instruct").mkdir(parents=True)
    (tmp_path / "demo/chatterbot.jsonl").touch()
    return tmp_path


def test_files_in_place_are_not_built_again(filled: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "fetch", lambda *_: pytest.fail("fetched again"))
    assert demo.main(["--fetch-only", f"cache_dir={filled}"]) == 0


def test_a_second_call_does_not_load_torch(filled: Path):
    program = f"import sys; from distft.demo.__main__ import main; main(['--fetch-only', 'cache_dir={filled}'])"
    program += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_failed_fetch_is_one_line_and_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def offline(*_: Path) -> None:
        raise RuntimeError("pip could not get them")

    monkeypatch.setattr(demo, "fetch", offline)
    assert demo.main(["--fetch-only", f"cache_dir={tmp_path}"]) == 1
    assert "pip could not get them" in capsys.readouterr().out


def test_overrides_reach_launch_and_its_exit_code_is_returned(filled: Path, monkeypatch: pytest.MonkeyPatch):
    commands: list[list[str]] = []
    monkeypatch.setattr(demo, "wait_for", lambda command: commands.append(command[1:]) or 75)
    assert demo.main([f"cache_dir={filled}", "strategy=zero3", "name=mine"]) == 75
    assert commands == [
        ["-m", "distft.launch", "experiment=laptop_demo", f"cache_dir={filled}", "strategy=zero3", "name=mine"]
    ]


def test_the_default_run_name_is_demo(filled: Path, monkeypatch: pytest.MonkeyPatch):
    commands: list[list[str]] = []
    monkeypatch.setattr(demo, "wait_for", lambda command: commands.append(command) or 0)
    assert demo.main([f"cache_dir={filled}"]) == 0
    assert commands[0][-1] == "name=demo"


@pytest.mark.slow
def test_ctrl_c_is_left_to_the_command_which_may_save_first():
    program = "import signal, sys, time; signal.signal(signal.SIGINT, lambda *_: (time.sleep(1), sys.exit(75)));"
    program += "print(flush=True); time.sleep(30)"
    outer = "import sys; from distft.demo.__main__ import wait_for;"
    outer += f"sys.exit(wait_for([sys.executable, '-c', {program!r}]))"
    process = subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 75
