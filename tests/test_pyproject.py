"""pyproject.toml names every package that the code imports, and no other."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from tests.support.sources import nodes

EXTRAS = {"liger_kernel": "liger-kernel"}  # imported where a GPU is, and not installed here
PROGRAMS = {"ninja"}  # run by DeepSpeed, and never imported
TOOLS = {
    "build",
    "hatchling",
    "mkdocs-material",
    "pyrefly",
    "pyright",
    "pytest-timeout",
    "ruff",
}  # Makefile, pytest, test_wheel.py
PEERS = {"trl"}  # measured by benchmarks/peers in an environment of its own
LOCAL = {"distft", "tests", "benchmarks", "practice_cluster"}


@pytest.fixture(scope="module")
def project(checkout: Path) -> dict[str, Any]:
    return tomllib.loads((checkout / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    """Returns packages as pip compares their names."""
    return {normal(re.match(r"[\w.-]+", each)[0]) for each in requirements}  # pyright: ignore[reportOptionalSubscript]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def modules(folder: Path) -> Iterator[str]:
    for file in folder.rglob("*.py"):
        for node in nodes(file):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


@cache
def distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def packages(*folders: Path) -> set[str]:
    """Returns the packages that the code in these folders imports."""
    known = distributions()
    found = {module for folder in folders for module in modules(folder)} - LOCAL - set(sys.stdlib_module_names)
    return {normal(known[module][0] if module in known else EXTRAS.get(module, module)) for module in found}


@pytest.mark.slow
def test_pyproject_names_exactly_the_imports_of_distft(project: dict[str, Any], checkout: Path) -> None:
    required, imported = names(project["dependencies"]), packages(checkout / "distft")
    extras = set().union(*(names(each) for name, each in project["optional-dependencies"].items() if name != "dev"))
    assert imported - required - extras == set(), "imported, and not in pyproject.toml"
    assert (required | extras) - imported == PROGRAMS, "in pyproject.toml, and not imported"
    assert required & extras == set()


@pytest.mark.slow
def test_pyproject_names_exactly_the_imports_of_tests(project: dict[str, Any], checkout: Path) -> None:
    dev, required = names(project["optional-dependencies"]["dev"]), names(project["dependencies"])
    imported = packages(checkout / "tests", checkout / "benchmarks")
    assert imported - required - dev == PEERS, "imported, and not in pyproject.toml"
    extras = project["optional-dependencies"]
    optional = names(
        extras["sweep"] + extras["trackio"] + extras["data"] + extras["eval"] + extras["openai"]
    )  # what tests of these run with
    assert dev - imported - optional == TOOLS, "in pyproject.toml, and not used"
