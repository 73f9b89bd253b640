"""Imports point down the level table only, and what a login node runs never loads torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.sources import nodes

PACKAGE = Path(__file__).parents[1] / "distft"

# Everything not named here is a command: level 10, whom nobody imports.
LEVELS = {
    0: {"compat", "data_sheets", "machines", "paths", "run", "tasks"},
    1: {"config", "runtime"},
    2: {"data", "goodput", "tensors"},
    3: {"models", "optim", "strategies", "launchers", "trackers"},
    4: {"losses"},
    5: {"checkpoint", "doctor", "model_check"},
    6: {"evaluate", "generate", "plan", "train"},
    # rank imports worker; launch and a sweep share the stages of a run, and launch imports sweep
    7: {"audit", "report", "launch", "attempt", "judges"},
    8: {"cli", "human_eval", "sweep", "worker"},
    9: {"api", "evaluation", "inference"},
}
LEVEL_OF = {name: level for level, names in LEVELS.items() for name in names}
COMMANDS = 10

HEAVY = {"torch", "transformers", "datasets", "deepspeed", "peft", "accelerate"}
LIGHT = {
    "human_eval",
    "machines",
    "paths",
    "run",
    "tasks",
    "config",
    "launchers",
    "trackers",
    "report",
    "launch",
    "plan",
    "sweep",
    "doctor",
    "goodput",
    "runs",
    "api",
    "check",
}
INSIDE_THE_JOB = {  # processes of their own, or on the compute node, where torch is
    "distft.launchers.elastic",
    "distft.launchers.rendezvous",
    "distft.launchers.watchdog",
    "distft.doctor.all_reduce",
    "distft.doctor.libraries",
    "distft.doctor.rank",
    "distft.doctor.preflight_node",
}

FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path) -> Iterator[tuple[str, int]]:
    """Yields every module a file imports, at its top or inside a function, with the line."""
    for node in nodes(file):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import; write the full name"
            if node.module == "distft":
                yield from ((f"distft.{alias.name}", node.lineno) for alias in node.names)
            elif node.module:
                yield node.module, node.lineno


def unit_and_level(module: str) -> tuple[str, int]:
    """Returns the part of distft that a module belongs to, and its level."""
    parts = module.split(".")
    unit = parts[1] if len(parts) > 1 else ""
    return unit, COMMANDS if parts[-1] == "__main__" else LEVEL_OF.get(unit, COMMANDS)


UNITS: dict[str, list[Path]] = {}  # part of distft -> its files
for _file in FILES:
    UNITS.setdefault(unit_and_level(module_of(_file))[0], []).append(_file)


@pytest.mark.parametrize("unit", sorted(UNITS))
def test_imports_point_down(unit: str):
    for file in UNITS[unit]:
        module = module_of(file)
        _, level = unit_and_level(module)
        for imported, line in imports_of(file):
            if not imported.startswith("distft."):
                continue
            other, other_level = unit_and_level(imported)
            assert other == unit or other_level < level, (
                f"{file}:{line}: {module} (level {level}) imports {imported} (level {other_level}); "
                f"a module imports lower levels only, commands start each other as processes"
            )


def test_no_modules_import_each_other_in_a_circle():
    """Not inside of a function either."""
    modules = {module_of(file) for file in FILES}
    below: dict[str, set[str]] = {}
    for file in FILES:
        names = {imported for imported, _ in imports_of(file)}
        names |= {
            f"{node.module}.{alias.name}"
            for node in nodes(file)
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        below[module_of(file)] = names & modules - {module_of(file)}
    assert sum(map(len, below.values())) > len(modules)
    TopologicalSorter(below).prepare()  # CycleError names the circle


@pytest.mark.parametrize("unit", sorted(UNITS.keys() & LIGHT))
def test_login_node_code_names_no_heavy_library(unit: str):
    for file in UNITS[unit]:
        for imported, line in imports_of(file) if module_of(file) not in INSIDE_THE_JOB else ():
            assert imported.split(".")[0] not in HEAVY, f"{file}:{line}: imports {imported}"


@pytest.mark.slow
def test_login_node_code_loads_no_heavy_library():
    light = [m for m in map(module_of, FILES) if unit_and_level(m)[0] in LIGHT and m not in INSIDE_THE_JOB]
    light = [m for m in light if not m.endswith("__main__")]
    program = f"import {', '.join(light)}, sys; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_the_level_table_names_no_part_twice():
    assert sum(map(len, LEVELS.values())) == len(LEVEL_OF)
