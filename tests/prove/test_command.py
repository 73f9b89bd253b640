"""`distft prove`: a line for every check, a page, and exit code 1 if one fails."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from distft.prove.support import WORDS
from tests.support.warm import python

FIELDS = {"check", "status", "value", "unit", "expected", "seconds", "detail"}


def command(*words: str) -> list[str]:
    return [python(), "-m", "distft.prove", *words]


def prove(*words: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command(*words), capture_output=True, text=True, check=False, env=variables)


def lines_of(out: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(text) for text in (out / "proof.jsonl").read_text().splitlines()]
    assert len({line["check"] for line in found}) == len(found)
    return {line["check"]: line for line in found}


def passed(out: Path, checks: str) -> dict[str, dict[str, Any]]:
    """Returns the lines of a proof in which no check fails."""
    done = prove(f"out={out}", "minutes=15", f"checks=[{checks}]")
    lines = lines_of(out)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in lines.values():
        assert set(line) == FIELDS
        assert (line["detail"]["device"], line["detail"]["shapes"]) == ("cpu", "small")
        assert line["status"] in ("pass", "skipped") and (line["status"] == "pass" or line["detail"]["text"])
    return lines


@pytest.mark.slow
def test_a_share_of_the_proof_holds_on_this_cpu(tmp_path: Path) -> None:
    out = tmp_path / "proof"
    lines = passed(out, "versions,full_8b")
    assert lines["full_8b.memory"]["value"] <= 0.05 and lines["full_8b.tokens_per_second"]["value"] > 0
    assert lines["full_8b.tokens_per_second"]["detail"]["attention"] == "sdpa", "what auto means on a CPU"
    assert lines["full_8b.mfu"]["status"] == lines["full_8b.host_waits"]["status"] == "skipped"
    page = (out / "proof.html").read_text()
    assert all(name.partition(".")[2] in page for name in lines)
    assert json.loads((out / "machine.json").read_text())["device"] == "cpu"


@pytest.mark.soak
def test_the_proof_of_attention_holds_on_this_cpu(tmp_path: Path) -> None:
    lines = passed(tmp_path / "proof", "attention")
    assert lines["attention.eager.training"]["value"] <= 2e-5
    assert lines["attention.sdpa.isolation"]["status"] == "pass"
    assert lines["attention.varlen.isolation"]["status"] == "skipped"


@pytest.mark.slow
def test_checks_without_time_are_listed_as_not_run(tmp_path: Path) -> None:
    out = tmp_path / "proof"
    done = prove(f"out={out}", "minutes=0.2", "checks=[attention,micro,full_1b,doctor]")
    lines = lines_of(out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines["full_1b.memory"]["status"] == lines["doctor"]["status"] == "not_run"
    assert "left" in lines["doctor"]["detail"]["text"]
    assert (out / "proof.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.soak), signal.SIGTERM])
def test_an_interrupted_proof_ends_children_and_writes_its_page(number: int, tmp_path: Path) -> None:
    out = tmp_path / "proof"
    process = subprocess.Popen(command(f"out={out}", "checks=[versions,resume,full_1b]"), stdout=subprocess.DEVNULL)
    log = out / "work" / "logs" / "resume-ddp.log"
    while not log.is_file() or not log.read_text():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(60) == 130
    lines = lines_of(out)
    assert lines["versions.torch"]["status"] == "pass"
    for check in ("resume.ddp", "resume.zero2", "full_1b.memory"):
        assert lines[check]["status"] == "not_run" and lines[check]["detail"]["text"] == "interrupted", check
    assert (out / "proof.html").is_file()
    for _ in range(100):
        left = [pid for pid in Path("/proc").glob("[0-9]*") if str(out) in _command_line(pid)]
        if not left:
            break
        time.sleep(0.1)
    assert not left


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""


@pytest.mark.slow
def test_wrong_arguments_are_reported_at_once_with_suggestions(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    done = prove(f"out={tmp_path / 'full'}", "minutes=-1", "checks=[strategy,resume]")
    assert done.returncode == 2 and "Traceback" not in done.stderr and "3 errors" in done.stderr
    assert f"Try: out={tmp_path / 'full-2'}" in done.stderr
    assert "minutes=-1: is not a number above 0" in done.stderr
    assert "checks=strategy: there is no such check. Did you mean strategies?" in done.stderr


@pytest.mark.slow
def test_a_wrong_key_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    done = prove(f"out={tmp_path / 'new'}", "minute=3")
    assert done.returncode == 2 and "minute: there is no such key. Did you mean minutes?" in done.stderr
    assert not (tmp_path / "new").exists()
    assert prove().returncode == 2


@pytest.mark.slow
def test_help_names_keys_and_checks() -> None:
    done = prove("--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("out=", "minutes=", "checks=", *WORDS))
