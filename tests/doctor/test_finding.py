"""A check that fails is a finding of its own, after those it had already made."""

from collections.abc import Iterator

import pytest

from distft.doctor.finding import Finding, run_check


def broken() -> Iterator[Finding]:
    yield Finding("a", "ok", "fine so far")
    raise KeyError("MemAvailable")


def test_a_check_that_raises_is_a_problem_and_keeps_what_it_found() -> None:
    first, second = run_check("a", broken)
    assert first.state == "ok"
    assert second.state == "problem"
    assert second.seen == "this check failed: KeyError: 'MemAvailable'"
    assert second.remedy


def test_no_finding_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdef")
    [found] = run_check("a", lambda: [Finding("a", "ok", "sent hf_0123456789abcdef", "of hf_0123456789abcdef")])
    assert "0123456789" not in found.seen + found.remedy
