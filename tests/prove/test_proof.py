"""A proof has each line as soon as it is known, and a line passes by its number.

The page is self-contained, readable without scripts, and runs no code.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from distft.prove.proof import Proof, at_most, failed, not_run, number, read_lines, render, skipped
from tests.prove.made import FACTS, line


@pytest.mark.parametrize(("value", "status"), [(0.9, "pass"), (1.0, "pass"), (1.1, "fail"), (math.nan, "fail")])
def test_a_line_passes_up_to_its_limit(value: float, status: str) -> None:
    line = at_most("a.check", value, 1.0, "a step", "waits", calls=3)
    assert (line.status, line.expected, line.text, line.detail["calls"]) == (status, "<= 1", "waits", 3)


def test_every_line_is_flushed_and_names_the_device(tmp_path: Path) -> None:
    proof = Proof(tmp_path / "proof.jsonl", {"device": "cpu", "shapes": "small"})
    for count, each in enumerate((skipped("a", "no device"), not_run("b", "no time"), at_most("c", 1, 2, "", "x")), 1):
        proof.add(each)
        written = [json.loads(text) for text in proof.file.read_text().splitlines()]
        assert len(written) == count
        assert set(written[-1]) == {"check", "status", "value", "unit", "expected", "seconds", "detail"}
        assert (written[-1]["detail"]["device"], written[-1]["detail"]["shapes"]) == ("cpu", "small")
    assert not proof.has_failed
    proof.add(failed("d", "wrong"))
    assert proof.has_failed and proof.count("fail") == 1
    assert list(read_lines(proof.file)) == proof.lines


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    proof = Proof(tmp_path / "proof.jsonl", {})
    proof.add(failed("a", "wrong"))
    with proof.file.open("a") as file:
        file.write('{"check": "b", "sta')
    assert [line.check for line in read_lines(proof.file)] == ["a"]


HOSTILE = "<script>alert(1)</script>"
LINES = [
    line("strategies.ddp.fp32", value=1.5e-6, unit="relative", expected="<= 2e-05", text="from the CPU", losses=[1.0]),
    line("attention.varlen.training", "skipped", text="no CUDA device"),
    line("resume.ddp", "fail", text=HOSTILE),
    line("lora_8b.mfu", "not_run", text="no time was left"),
]


def test_nothing_is_fetched_and_no_text_is_markup() -> None:
    page = render(FACTS | {"name": HOSTILE}, LINES, 12.0)
    assert HOSTILE not in page and page.count("&lt;script&gt;") >= 3
    assert not re.search(r"<(script|link|img|iframe)|@import|url\(", page)
    assert "default-src 'none'" in page


def test_every_line_is_shown_with_its_reason() -> None:
    page = render(FACTS, LINES, 12.0)
    for text in ("no CUDA device", "no time was left", "&lt;= 2e-05", "1.5e-06 relative", "from the CPU"):
        assert text in page, text
    assert "1 fail" in page and "Failed checks" in page


def test_the_page_of_a_cpu_states_that_shapes_are_small() -> None:
    assert "device: cpu, small shapes" in render(FACTS, LINES, 12.0)


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (12345.6, "12,346"), (0.01234, "0.0123"), (7, "7"), ("2.13", "2.13"), (True, "")]
)
def test_numbers_have_the_digits_that_count(value: Any, text: str) -> None:
    assert number(value) == text
