"""Python and the packages that pyproject.toml asks for, against its bounds, by their metadata: nothing is imported.

Trap: an editable install answers with the metadata of the day it was made, so a pyproject.toml beside it comes first.
"""

import importlib.metadata
import platform
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import distft
from distft.compat.packages import version_of
from distft.doctor.finding import Finding

_MAIN = ("torch", "deepspeed", "transformers")  # named with version and bounds, also where all is well
_PYPROJECT = Path(distft.__file__).parents[1] / "pyproject.toml"


def bounds(pyproject: Path = _PYPROJECT) -> tuple[str, list[str]]:
    """Returns what this distft asks of Python, and its requirements: `torch>=2.9`."""
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text())["project"]
        return project["requires-python"], project["dependencies"]
    about = importlib.metadata.metadata("distft")
    needed = [each for each in importlib.metadata.requires("distft") or [] if "extra ==" not in each]
    return about["Requires-Python"], needed


def check_python(rule: str | None = None) -> Iterator[Finding]:
    """Finds whether this Python is one that distft runs on."""
    from packaging.specifiers import SpecifierSet

    rule = rule or bounds()[0]
    version = platform.python_version()
    seen = f"{version} in {sys.executable}"
    if SpecifierSet(rule).contains(version, prereleases=True):
        yield Finding("python", "ok", seen)
    else:
        yield Finding("python", "problem", f"{seen}, distft needs {rule}", f"a Python {rule}, then make venv")


def check_packages(requirements: Sequence[str] | None = None) -> Iterator[Finding]:
    """Finds every package that is missing or out of its bounds."""
    from packaging.requirements import Requirement

    wrong = []
    needed = [Requirement(each) for each in (bounds()[1] if requirements is None else requirements)]
    for each in needed:
        version = version_of(each.name)
        if version is None or not each.specifier.contains(version, prereleases=True):
            wrong.append(each)
            seen = f"{each.name} {version or 'is missing'}, distft needs {each.specifier}"
            yield Finding("packages", "problem", seen, f"{sys.executable} -m pip install '{each}'")
    if not wrong:
        main = (f"{each.name} {version_of(each.name)} ({each.specifier})" for each in needed if each.name in _MAIN)
        told = f"all {len(needed)} within the bounds of pyproject.toml"
        yield Finding("packages", "ok", ": ".join(filter(None, (told, ", ".join(main)))))


def versions() -> dict[str, str | None]:
    """Returns the version of each package that distft asks for, to be held against another machine's."""
    from packaging.requirements import Requirement

    return {name: version_of(name) for name in sorted(Requirement(each).name for each in bounds()[1])}
