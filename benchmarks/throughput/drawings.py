"""One figure: tokens per second and efficiency over the number of processes, and memory of each strategy.

Settings compared on one number of processes have no efficiency: in its place is their gain over the first.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter

from benchmarks.throughput.points import Point, Series, points_of, words
from benchmarks.throughput.results import Found, efficiencies, gains
from benchmarks.throughput.settings import Variant
from distft.report.curves import PAPER, frame, save

_DASHES = {"weak": "-", "strong": "--"}
_COLOURS = colormaps["tab10"]
_ASIDE = 0.2  # of a doubling of processes: the width over which the series of one number are spread


def draw(all_series: Sequence[Series], found: Found, title: str, path: Path) -> None:
    """Writes PATH.svg and PATH.png; failed points are omitted."""
    size = 13.2, 4.4 + 0.22 * len(all_series)  # the legend is below, with a line for each
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.16, w_pad=0.12))
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=PAPER.text, parse_math=False)
    rate, helped, memory = (figure.add_subplot(1, 3, place) for place in (1, 2, 3))
    looks = list(dict.fromkeys(map(_look, all_series)))
    worlds = sorted({point.world for series in all_series for point in series.points})
    first = all_series[0].variant
    is_gain = len(worlds) == 1 and bool(first)
    for number, series in enumerate(all_series):
        colour = _COLOURS(looks.index(_look(series)) % 10)
        aside = 2 ** (_ASIDE * ((number + 0.5) / len(all_series) - 0.5))
        ratios = {p: gains(p, first, found) if is_gain else efficiencies(series, p, found) for p in series.points}
        _line(rate, series, {p: found.values(p, "tokens_per_second") for p in series.points}, aside, colour)
        _line(helped, series, ratios, aside, colour)
    if lines := rate.get_legend_handles_labels()[0]:
        figure.legend(handles=lines, loc="outside lower left", frameon=False, fontsize=8, labelcolor=PAPER.text)
    _ideal(rate)
    frame(rate, "Tokens per second, all processes", PAPER)
    compared = f"Times {' '.join(words(first))}" if is_gain else "Efficiency: tokens per second of a process"
    frame(helped, compared, PAPER)
    helped.set_ylim(bottom=0, top=max(1.1, helped.get_ylim()[1]))
    for axes in (rate, helped):
        axes.set_xscale("log", base=2)
        axes.set_xlim(worlds[0] / 2**_ASIDE, worlds[-1] * 2**_ASIDE)
        axes.set_xticks(worlds)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("processes", fontsize=9, color=PAPER.text)
    rate.set_yscale("log", base=2)
    least, most = rate.get_ylim()
    rate.yaxis.set_major_locator(LogLocator(base=2, subs=(1, 1.5)) if most > 3 * least else MaxNLocator(5))
    rate.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    rate.yaxis.set_minor_locator(NullLocator())
    _bars(memory, looks, points_of(all_series), found)
    save(figure, path)


def _look(series: Series) -> tuple[str, int, Variant]:
    return series.strategy, series.micro, series.variant


def _line(axes: Axes, series: Series, values: dict, aside: float, colour: object) -> None:
    """Draws the medians of a series, each with its least and most, at `aside` times its number of processes."""
    kept = [(point.world, repeats) for point, repeats in values.items() if repeats]
    if not kept:
        return
    worlds, middles = [world * aside for world, _ in kept], [median(repeats) for _, repeats in kept]
    ends = [[m - min(r) for m, (_, r) in zip(middles, kept, strict=True)]]
    ends.append([max(r) - m for m, (_, r) in zip(middles, kept, strict=True)])
    axes.errorbar(
        worlds, middles, yerr=ends, color=colour, linestyle=_DASHES[series.scaling], marker="o", markersize=4,
        linewidth=1.6, capsize=2.5, label=series.title,
    )  # fmt: skip


def _ideal(axes: Axes) -> None:
    """Draws ideal scaling from the start of each line."""
    for line in list(axes.get_lines()):
        if line.get_marker() == "o":
            worlds, rates = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
            axes.plot(worlds, rates[0] * worlds / worlds[0], color=PAPER.line, linewidth=1, zorder=0)


def _bars(axes: Axes, looks: Sequence[Any], points: Sequence[Point], found: Found) -> None:
    """Draws the peak memory of a process as bars, grouped by number of processes."""
    worlds = sorted({point.world for point in points})
    width = 0.8 / len(looks)
    for number, look in enumerate(looks):
        for place, world in enumerate(worlds):
            alike = [p for p in points if (p.strategy, p.micro, p.variant) == look and p.world == world]
            peaks = [peak for point in alike for peak in found.values(point, "peak_memory_gib")]
            left = place + (number - (len(looks) - 1) / 2) * width
            axes.bar(left, max(peaks, default=0), width * 0.92, color=_COLOURS(number % 10), alpha=0.75)
    frame(axes, "Peak memory of rank 0, GiB", PAPER)
    axes.set_xticks(range(len(worlds)), map(str, worlds))
    axes.set_xlabel("processes", fontsize=9, color=PAPER.text)
