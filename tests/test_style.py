"""The code keeps to its own rules of style."""

import re
from pathlib import Path

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
