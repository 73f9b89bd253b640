"""What is installed is held against pyproject.toml."""

import tomllib
from importlib.metadata import version
from pathlib import Path

from distft.doctor.machine import bounds, check_packages, check_python


def test_this_environment_is_within_its_bounds(checkout: Path) -> None:
    [python, packages] = [*check_python(), *check_packages()]
    assert python.state == packages.state == "ok"
    assert f"torch {version('torch')} (>=" in packages.seen
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    assert bounds() == (project["requires-python"], project["dependencies"])


def test_a_wheel_without_pyproject_tells_its_bounds_by_metadata(tmp_path: Path) -> None:
    python, needed = bounds(tmp_path / "pyproject.toml")
    assert ">=3.11" in python
    assert any(each.startswith("torch") for each in needed)
    assert not any("extra" in each for each in needed)


def test_each_package_out_of_its_bounds_is_named_with_the_command_that_helps() -> None:
    old, missing = check_packages(["rich>=999", "numpy>=2.0", "no-such-package>=1.2"])
    assert old.state == missing.state == "problem"
    assert old.seen.startswith("rich ") and old.seen.endswith("distft needs >=999")
    assert old.remedy.endswith("-m pip install 'rich>=999'")
    assert missing.seen == "no-such-package is missing, distft needs >=1.2"


def test_an_old_python_is_a_problem() -> None:
    [found] = check_python(">=99.1")
    assert found.state == "problem" and "distft needs >=99.1" in found.seen
