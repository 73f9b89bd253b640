"""Efficiency is taken repeat by repeat against the first point that was measured; failures stay visible."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.throughput.drawings import draw
from benchmarks.throughput.points import Point, Series
from benchmarks.throughput.results import Found, efficiencies, gains, page, rows_of, write_csv

ONE, TWO, FOUR = (Point("ddp", 1, world, 2, 4 * world) for world in (1, 2, 4))
SERIES = Series("weak", "ddp", 2, (), (ONE, TWO, FOUR))

HARDWARE = {"cpu": "x", "cores": 2, "memory_gib": 3.0, "accelerators": []}
ON = {"hardware": HARDWARE, "packages": {"torch": "2"}, "time": "2026-01-01T00:00:00"}
ABOUT = {"command": "c", "code": "abc", "on": ON, "rows": "unequal"}


def numbers(rate: float) -> dict:
    return {"tokens_per_second": rate, "peak_memory_gib": 1.5}


def found() -> Found:
    runs = {ONE: {0: numbers(100.0), 1: numbers(50.0)}, TWO: {0: numbers(180.0), 1: numbers(100.0)}}
    return Found(runs, {FOUR: "out of memory"})


def test_a_slow_repeat_is_compared_with_itself():
    assert efficiencies(SERIES, TWO, found()) == pytest.approx([0.9, 1.0])
    assert efficiencies(SERIES, FOUR, found()) == []


def test_the_base_is_the_smallest_that_was_measured():
    runs = {TWO: {0: numbers(100.0)}, FOUR: {0: numbers(150.0)}}
    assert efficiencies(SERIES, FOUR, Found(runs, {ONE: "does not fit"})) == pytest.approx([0.75])


def test_a_failed_point_is_shown_with_its_reason(tmp_path: Path):
    rows = rows_of([SERIES], found())
    write_csv(rows, tmp_path / "throughput.csv")
    with (tmp_path / "throughput.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [each["failed"] for each in read] == ["", "", "out of memory"]
    assert [each["tokens_per_second"] for each in read] == ["75.0", "140.0", ""]
    text = page([SERIES], found(), ABOUT)
    assert "| ddp | 2 | 1 x 2 | 8 | 140 (100 to 180) | 0.95 (0.90 to 1.00) | - | 1.50 |" in text
    assert "failed, see below" in text and "out of memory" in text


def compared() -> tuple[list[Series], Found]:
    """One point with two settings; the machine was half as fast in the second repeat."""
    slow, fast = (replace(ONE, variant=(f"train.compile={word}",)) for word in ("false", "true"))
    runs = {slow: {0: numbers(100.0), 1: numbers(50.0)}, fast: {0: numbers(120.0), 1: numbers(65.0)}}
    return [Series("weak", "ddp", 2, point.variant, (point,)) for point in (slow, fast)], Found(runs)


def test_settings_are_compared_repeat_by_repeat_with_the_first():
    series, reported = compared()
    [slow], [fast] = (each.points for each in series)
    assert gains(fast, slow.variant, reported) == pytest.approx([1.2, 1.3])
    assert [row["of_first_settings"] for row in rows_of(series, reported)] == pytest.approx([1.0, 1.25])
    text = page(series, reported, ABOUT)
    assert "over those of `train.compile=false`" in text
    assert "| 92 (65 to 120) | 1.00 (1.00 to 1.00) | - | 1.50 | train.compile=true | 1.25 (1.20 to 1.30) |" in text


@pytest.mark.slow
def test_the_plot_works_with_failed_and_without_measured_points(tmp_path: Path):
    for name, what in (("some", found()), ("none", Found({}, {ONE: "x", TWO: "x", FOUR: "x"}))):
        draw([SERIES], what, "title", tmp_path / name)
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
        assert (tmp_path / f"{name}.svg").read_text().count("<svg") == 1


@pytest.mark.slow
def test_settings_with_equal_process_counts_are_adjacent(tmp_path: Path):
    draw(*compared(), "title", tmp_path / "compared")
    drawn = (tmp_path / "compared.svg").read_text()
    assert "compile=true" in drawn and "Times compile=false" in drawn
    markers = re.findall(r'<use xlink:href="#\w+" x="([\d.]+)" y="[\d.]+" style="fill: (#\w+)', drawn)
    slow, fast = ({x for x, of in markers if of == colour} for colour in ("#1f77b4", "#ff7f0e"))
    assert len(slow) == len(fast) == 3 and len(slow & fast) == 1  # two panels, and one under the other in the legend
