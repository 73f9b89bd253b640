"""Repeats are shown by their median and their ends."""

from benchmarks.spread import spread, table


def test_the_median_comes_first_then_the_range():
    assert spread([3.0, 1.0, 1000.0]) == "3 (1 to 1,000)"
    assert spread([0.5], "{:.1f}") == "0.5"
    assert spread([]) == "-"


def test_a_table_has_a_line_for_each_row():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
