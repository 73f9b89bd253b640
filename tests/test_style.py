"""The code follows the style rules of CONTRIBUTING.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.sources import tree

PACKAGE = Path(__file__).parents[1] / "distft"
FILES = sorted(PACKAGE.rglob("*.py"))
VAGUE = {"utils", "util", "common", "base", "manager", "helpers", "misc", "trainer"}
PICKLES = re.compile(r"\bimport pickle\b|\bimport (cloud)?pickle|\btorch\.load\(|allow_pickle=True|\bdill\b")


def test_no_file_is_longer_than_400_lines():
    lengths = {str(file.relative_to(PACKAGE)): len(file.read_text().splitlines()) for file in FILES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_file_has_a_meaningless_name():
    assert [file for file in FILES if file.stem.lower() in VAGUE] == []


def test_no_pickle_is_read_or_written():
    assert [file for file in FILES if PICKLES.search(file.read_text())] == []


def test_every_module_has_a_docstring():
    assert [file for file in FILES if file.read_text().strip() and not file.read_text().startswith('"""')] == []


MAX_PARAMETERS = 7  # constructors that are configuration are dataclasses, whose fields are not counted


def parameters(root: ast.AST, place: str) -> Iterator[tuple[str, int]]:
    """Yields the dotted name of each function, and its number of parameters without self and cls."""
    for node in ast.iter_child_nodes(root):
        name = f"{place}.{node.name}" if isinstance(node, ast.FunctionDef | ast.ClassDef) else place
        if isinstance(node, ast.FunctionDef):
            all_of = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            own = [each for each in all_of if each.arg not in ("self", "cls")]
            yield name, len(own) + bool(node.args.vararg) + bool(node.args.kwarg)
        yield from parameters(node, name)


def test_no_function_has_more_than_seven_parameters():
    counted = dict[str, int]()
    for file in FILES:
        module = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        counted |= dict(parameters(tree(file), module))
    assert {name: number for name, number in counted.items() if number > MAX_PARAMETERS} == {}


def test_parameters_are_counted_without_self_and_with_rest():
    root = ast.parse("class A:\n  def f(self, a, /, b, *c, d=1, **e):\n    def g(x): ...")
    assert dict(parameters(root, "m")) == {"m.A.f": 5, "m.A.f.g": 1}


MAX_UNTYPED = 20  # lines; each says why no TypedDict or dataclass fits


def test_json_with_known_keys_is_typed():
    lines = [f"{file}:{line}" for file in FILES for line in file.read_text().splitlines() if "dict[str, Any]" in line]
    assert len(lines) <= MAX_UNTYPED, "\n".join(lines)
