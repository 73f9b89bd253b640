"""The drawings of a sweep show the results of its runs.

In the parallel coordinates every run is one line.
"""

import math
from itertools import pairwise

import pytest
from matplotlib.figure import Figure

from distft.report.curves import PAPER
from distft.report.sweep.drawings import draw_curves, draw_key, draw_parallel, short_keys, window
from distft.report.sweep.settings import rank
from tests.report.sweep.conftest import Run, of_seeds

RATE = ["optimizer.lr", "seed"]


def draw_rates(sweep):
    axes = Figure().add_subplot()
    draw_key(axes, "optimizer.lr", rank(sweep), PAPER)
    return axes


def dots(axes):
    return [(*line.get_xydata()[0], line.get_marker()) for line in axes.lines if line.get_marker() != "None"]


def test_runs_are_dots_and_those_of_the_best_setting_diamonds(make_sweep):
    axes = draw_rates(make_sweep([*of_seeds(1e-5, 2.0, 2.2), *of_seeds(1e-3, 1.0, 1.1)], RATE))
    assert sorted(dots(axes)) == [(1e-5, 2.0, "o"), (1e-5, 2.2, "o"), (1e-3, 1.0, "D"), (1e-3, 1.1, "D")]
    assert axes.get_xscale() == "log"


def test_the_line_goes_through_the_means(make_sweep):
    axes = draw_rates(make_sweep([*of_seeds(1e-3, 1.0, 1.2), *of_seeds(1e-5, 2.0, 2.2)], RATE))
    [line] = [line for line in axes.lines if line.get_marker() == "None"]
    assert line.get_xydata().tolist() == [[1e-5, 2.1], [1e-3, 1.1]]


def test_means_of_words_are_bars_without_a_line(make_sweep):
    runs = [Run({"optimizer.lr": word}, losses=(9.0, loss)) for word, loss in (("a", 1.0), ("a", 2.0), ("b", 4.0))]
    axes = draw_rates(make_sweep(runs, RATE))
    [bars] = axes.collections
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[1.5, 1.5], [4.0, 4.0]]
    assert not [line for line in axes.lines if line.get_marker() == "None"]


def test_values_that_occur_once_each_have_no_mean(make_sweep):
    axes = draw_rates(make_sweep([Run({"optimizer.lr": 1e-5 * n}) for n in range(1, 12)], RATE))
    assert len(axes.lines) == 11


def test_a_diverged_run_is_a_triangle_at_the_edge(make_sweep):
    axes = draw_rates(make_sweep([*of_seeds(1e-5, 2.0, 2.1, 2.2, 2.3, 2.4), *of_seeds(1e-3, 900.0)], RATE))
    top = axes.get_ylim()[1]
    assert top < 2.6
    assert (1e-3, top, "^") in dots(axes)


@pytest.mark.parametrize("losses", [[2.0], [2.0, 2.0], [0.0], [2.0, 900.0], [1, 1, 1, 1, 5]])
def test_an_axis_holds_few_losses_whole(losses):
    low, high = window(losses)
    assert low < min(losses) and max(losses) < high


def test_a_dollar_sign_is_not_math(make_sweep):
    wrong = "$x_{$"  # which matplotlib refuses to draw as one
    sweep = make_sweep([Run({wrong: wrong}), Run({wrong: "a"})], [wrong])
    axes, ranking = Figure().subplots(2), rank(sweep)
    draw_key(axes[0], wrong, ranking, PAPER)
    draw_parallel(axes[1], sweep, ranking, ranking[0].best, PAPER)
    axes[0].figure.draw_without_rendering()
    assert [label.get_text() for label in axes[0].get_xticklabels()] == [wrong, "a"]


def test_labels_do_not_cover_each_other(make_sweep):
    rates = [1e-5, 1.2e-5, 1.4e-5, 1.6e-5, 1e-4, 1e-2]
    axes = draw_rates(make_sweep([Run({"optimizer.lr": rate}) for rate in rates], RATE))
    axes.figure.set_size_inches(4, 2.7)
    axes.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert [label.get_text() for label in axes.get_xticklabels()][-1] == "0.01"
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_curves_share_a_panel_best_on_top_unfinished_dashed(make_sweep):
    sweep = make_sweep([Run({}, (3.0, 2.0, 1.0)), Run({}, (3.0, 1.5, 0.9)), Run({}, (3.0, 2.5), "running")], [])
    axes = Figure().add_subplot()
    draw_curves(axes, sweep, sweep.jobs[1], PAPER)
    assert [line.get_ydata().tolist() for line in axes.lines] == [[3.0, 2.0, 1.0], [3.0, 1.5, 0.9], [3.0, 2.5]]
    assert [line.get_linestyle() for line in axes.lines] == ["-", "-", "--"]
    assert max(axes.lines, key=lambda line: line.get_zorder()) is axes.lines[1]
    assert axes.get_ylim()[1] < 3.0  # not the loss before training


def test_curves_of_one_evaluation_each_are_drawn(make_sweep):
    sweep = make_sweep([Run({}, (3.0,)), Run({}, (2.0,))], [])
    axes = Figure().add_subplot()
    draw_curves(axes, sweep, None, PAPER)
    assert all(math.isfinite(end) for end in axes.get_ylim()) and axes.get_ylim()[1] > 3.0


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
