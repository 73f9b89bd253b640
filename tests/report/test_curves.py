"""The curves show the measured values."""

import math
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from distft.report.curves import (
    MARKED,
    MAX_POINTS,
    PANELS,
    PAPER,
    draw,
    has_points,
    page_panels,
    points,
    settle,
    sheet,
    values_at,
    with_gap,
    write_sheet,
)
from tests.report.conftest import ROWS, eval_row, train_row


def line_of(rows, panel):
    axes = Figure().add_subplot()
    draw(axes, rows, panel, PAPER)
    return axes.lines


def test_missing_and_infinite_values_are_omitted_not_drawn_as_0():
    rows = [
        train_row(1),
        train_row(2, loss=math.nan),
        train_row(3, loss=None),
        train_row(4, loss=math.inf),
        {"step": 5},
    ]
    steps, values = points(rows, "loss")
    assert steps.tolist() == [1]
    assert values.tolist() == [2.0]


def test_train_and_held_out_loss_share_one_panel():
    train, held_out = line_of(ROWS, PANELS[0])
    assert train.get_xydata().tolist() == [[step, 2.0 / step] for step in range(1, 9)]
    assert held_out.get_xydata().tolist() == [[0, 2.5], [8, 1.5]]


def test_a_long_curve_keeps_its_mean_and_its_extremes():
    rows = [train_row(step, loss=float(step % 2)) for step in range(1, 20 * MAX_POINTS + 1)]
    axes = Figure().add_subplot()
    draw(axes, rows, PANELS[0], PAPER)
    assert np.allclose(axes.lines[0].get_ydata(), 0.5)
    low, high = axes.collections[0].get_paths()[0].get_extents().intervaly
    assert (low, high) == (0, 1)


@pytest.mark.slow
def test_the_sheet_is_written_twice_with_the_same_bytes(tmp_path):
    drawings = []
    for _ in range(2):
        write_sheet(ROWS, "a run", tmp_path)
        drawings.append((tmp_path / "curves.svg").read_bytes())
    assert drawings[0] == drawings[1]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_fixed_layout_is_stable_with_six_digits():
    figure = sheet(ROWS, "a run")
    settle(figure)
    places = [axes.get_position().bounds for axes in figure.axes]
    assert all(abs(end - round(end, 6)) < 1e-12 for place in places for end in place)
    figure.draw_without_rendering()
    assert places == [axes.get_position().bounds for axes in figure.axes]


def test_a_run_without_numbers_has_an_empty_sheet(tmp_path):
    write_sheet([], "a run", tmp_path)
    assert list(page_panels([])) == []


@pytest.mark.slow
def test_panels_of_the_page_take_every_colour_from_it():
    panels = list(page_panels(ROWS))
    assert len(panels) == len([panel for panel in PANELS if panel.key == "gap" or has_points(ROWS, panel)])
    for _, svg in panels:
        assert svg.startswith('<svg role="img" aria-label="')
        assert "var(--text)" in svg
        assert not any(ink in svg for ink in (MARKED.text, MARKED.line, MARKED.train, MARKED.eval))


@pytest.mark.slow
def test_every_step_has_a_strip_with_its_values():
    [svg] = [svg for panel, svg in page_panels(ROWS) if panel.key == "loss"]
    form = r'<g class="hover"><rect x="([\d.]+)" [^>]*width="([\d.]+)".*?<text [^>]*>([^<]*)</text></g>'
    strips = re.findall(form, svg)
    assert len(strips) == 9
    assert strips[0][2] == "step 0  held-out 2.5" and strips[8][2] == "step 8  train 0.25  held-out 1.5"
    ends = [float(x) + float(width) for x, width, _ in strips]
    assert [float(x) for x, *_ in strips[1:]] == pytest.approx(ends[:-1], abs=0.11), "the strips leave no room between"


def test_a_long_curve_has_a_bounded_number_of_strips():
    rows = [train_row(step) for step in range(1, 20 * MAX_POINTS + 1)]
    texts = values_at(rows, PANELS[0])
    assert len(texts) == MAX_POINTS and max(texts) == 20 * MAX_POINTS


def test_the_gap_is_to_the_training_loss_since_an_evaluation():
    train = [train_row(1, loss=2.0), train_row(2, loss=1.0)]
    rows = with_gap([eval_row(0, 3.0), *train, eval_row(2, 2.5), eval_row(3, 2.0)])
    assert [row.get("gap") for row in rows if row["split"] == "eval"] == [None, 1.0, None]
