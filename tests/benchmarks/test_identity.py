"""What was measured with other code or settings has another name."""

import subprocess
from pathlib import Path

import benchmarks.identity as identity
import distft.runtime.environment as environment


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=folder, check=True)


def test_the_code_hash_covers_measured_code_and_not_results(tmp_path: Path, monkeypatch):
    for name in ("distft/runtime/environment.py", "benchmarks/results/old.md", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    monkeypatch.setattr(identity, "_CHECKOUT", tmp_path)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "distft/runtime/environment.py"))
    clean = identity.code()
    assert len(clean) == 40
    (tmp_path / "benchmarks/results/old.md").write_text("two\n")
    (tmp_path / "README.md").write_text("two\n")
    assert identity.code() == clean
    (tmp_path / "distft/runtime/environment.py").write_text("two\n")
    changed = identity.code()
    assert changed.startswith(f"{clean}+")
    (tmp_path / "distft/runtime/environment.py").write_text("three\n")
    assert identity.code() not in (clean, changed)


def test_equal_settings_have_equal_names():
    assert identity.digest({"a": 1, "b": [2]}) == identity.digest({"b": [2], "a": 1})
    assert identity.digest({"a": 1}) != identity.digest({"a": 2})
