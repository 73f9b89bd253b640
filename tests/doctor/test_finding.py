"""A check that raises becomes a finding, after the ones it already made."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from distft.doctor.finding import Finding, run_check
from distft.doctor.slurm import check_controller
from tests.support.stubs import only_path, stub


def broken() -> Iterator[Finding]:
    yield Finding("a", "ok", "fine so far")
    raise KeyError("MemAvailable")


def test_a_check_that_raises_is_a_problem_with_its_findings() -> None:
    first, second = run_check("a", broken)
    assert first.state == "ok"
    assert second.state == "problem"
    assert second.seen == "this check failed: KeyError: 'MemAvailable'"
    assert second.remedy


def test_no_finding_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdef")
    [found] = run_check("a", lambda: [Finding("a", "ok", "sent hf_0123456789abcdef", "of hf_0123456789abcdef")])
    assert "0123456789" not in found.seen + found.remedy


def test_the_error_of_an_unconfigured_slurm_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_path(tmp_path / "programs", monkeypatch)
    stub(
        tmp_path / "programs",
        "scontrol",
        "echo 'scontrol: fatal: Could not establish a configuration source' >&2; exit 1",
    )
    [found] = run_check("controller", check_controller)
    assert found.state == "problem" and "SLURM_CONF" in found.remedy
    assert found.seen == "SLURM does not answer here: scontrol: fatal: Could not establish a configuration source"
    monkeypatch.setenv("PATH", str(tmp_path))
    [found] = run_check("controller", check_controller)
    assert found.seen == "scontrol is not on PATH" and "module load slurm" in found.remedy
