"""Repeats are shown as median and range; other code or settings have another identity."""

import subprocess
from pathlib import Path

import benchmarks.measurement as measurement
import distft.runtime.environment as environment
from benchmarks.measurement import spread, table


def test_the_median_comes_first_then_the_range():
    assert spread([3.0, 1.0, 1000.0]) == "3 (1 to 1,000)"
    assert spread([0.5], "{:.1f}") == "0.5"
    assert spread([]) == "-"


def test_a_table_has_a_line_for_each_row():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=folder, check=True)


def test_the_code_hash_covers_measured_code_and_not_results(tmp_path: Path, monkeypatch):
    for name in ("distft/runtime/environment.py", "benchmarks/results/old.md", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    monkeypatch.setattr(measurement, "_CHECKOUT", tmp_path)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "distft/runtime/environment.py"))
    clean = measurement.code()
    assert len(clean) == 40
    (tmp_path / "benchmarks/results/old.md").write_text("two\n")
    (tmp_path / "README.md").write_text("two\n")
    assert measurement.code() == clean
    (tmp_path / "distft/runtime/environment.py").write_text("two\n")
    changed = measurement.code()
    assert changed.startswith(f"{clean}+")
    (tmp_path / "distft/runtime/environment.py").write_text("three\n")
    assert measurement.code() not in (clean, changed)


def test_equal_settings_have_equal_names():
    assert measurement.digest({"a": 1, "b": [2]}) == measurement.digest({"b": [2], "a": 1})
    assert measurement.digest({"a": 1}) != measurement.digest({"a": 2})
