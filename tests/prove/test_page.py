"""The page says everything in words, stands alone, and runs nothing."""

import re
from typing import Any

import pytest

from distft.prove.proof import number, render
from tests.prove.made import FACTS, line

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
    assert "1 fail" in page and "What fails" in page


def test_a_page_of_a_cpu_says_that_shapes_are_small() -> None:
    assert "device: cpu, small shapes" in render(FACTS, LINES, 12.0)


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (12345.6, "12,346"), (0.01234, "0.0123"), (7, "7"), ("2.13", "2.13"), (True, "")]
)
def test_numbers_have_the_digits_that_count(value: Any, text: str) -> None:
    assert number(value) == text
