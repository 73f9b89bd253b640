"""The code's syntax, for the tests that read it: each file is parsed and walked once in a process."""

import ast
from functools import cache
from pathlib import Path


@cache
def tree(file: Path) -> ast.Module:
    """Returns a file's syntax tree, which no caller may change."""
    return ast.parse(file.read_text())


@cache
def nodes(file: Path) -> tuple[ast.AST, ...]:
    """Returns the nodes of a file's syntax tree in the order of ast.walk."""
    return tuple(ast.walk(tree(file)))
