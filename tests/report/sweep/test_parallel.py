"""Every run is one line through its own values."""

import pytest
from matplotlib.figure import Figure

from distft.report.curves import PAPER
from distft.report.sweep.drawings import draw_parallel, short_keys, window
from distft.report.sweep.settings import rank
from tests.report.sweep.conftest import Run

KEYS = ["optimizer.lr", "schedule"]


def test_a_line_passes_its_values_and_ends_at_its_loss(make_sweep):
    runs = [Run({"optimizer.lr": rate, "schedule": word}, (3.0, loss)) for rate, word, loss in
            ((1e-5, "linear", 2.0), (1e-4, "cosine", 1.0), (1e-3, "linear", 1.5))]  # fmt: skip
    sweep = make_sweep(runs, KEYS)
    axes, ranking = Figure().add_subplot(), rank(sweep)
    draw_parallel(axes, sweep, ranking, ranking[0].best, PAPER)
    low, high = window([1.0, 1.5, 2.0])
    lines = [line.get_ydata() for line in axes.lines if len(line.get_xdata()) == 3]
    expected = [(0.5, 0.0, 1.0), (1.0, 1.0, 1.5), (0.0, 1.0, 2.0)]
    for line, (rate, word, loss) in zip(lines, expected, strict=True):
        assert list(line) == pytest.approx([rate, word, (loss - low) / (high - low)])
    best = next(line for line in axes.lines if line.get_color() == PAPER.eval)
    assert best.get_ydata()[0] == pytest.approx(0.5)


def test_keys_are_named_by_their_shortest_distinct_suffix():
    assert short_keys(["optimizer.lr", "schedule", "seed"]) == ["lr", "schedule", "seed"]
    assert short_keys(["model.path", "data.path"]) == ["model.path", "data.path"]
    assert short_keys(["lr", "optimizer.lr"]) == ["lr", "optimizer.lr"]
