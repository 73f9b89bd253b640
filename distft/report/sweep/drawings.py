"""Draws the objective over each swept key, the held-out curves of all runs, and parallel coordinates.

Trap: one diverged run would flatten all others; axes cover the others, and an outlier is a triangle at the edge.
Trap: text of a run may contain a `$`, which matplotlib would parse as a formula; parsing is off for all texts.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator

from distft.report.curves import MARKED, PAPER, Ink, frame, over_steps, page_svg
from distft.report.sweep.jobs import MAX_LABELS, Job, Scale, Sweep, metric_text, shortened, text_key, value_text
from distft.report.sweep.settings import Setting


def metric_of(jobs: Sequence[Job]) -> str:
    """Returns the metric of these runs as a title: `Held-out loss`."""
    return jobs[0].selection.name.capitalize()


def window(values: Sequence[float], sign: int = 1) -> tuple[float, float]:
    """Returns the limits of an axis for these values, without outliers far on the worse side of the quartiles.

    sign: 1 where lower values are better, else -1.
    """
    costs = [sign * value for value in values]
    low, high = min(costs), max(costs)
    if len(costs) > 3:
        first, third = np.quantile(costs, [0.25, 0.75])
        if third > first:
            high = max(cost for cost in costs if cost <= third + 3 * (third - first))
    room = 0.06 * (high - low) or 0.01 * abs(low) or 0.01
    ends = sorted((sign * (low - room), sign * (high + room)))
    return ends[0], ends[1]


def draw_key(axes: Axes, key: str, ranking: Sequence[Setting], ink: Ink) -> None:
    """Draws each ranked run over its value of `key`, and the mean at each value."""
    jobs = [job for setting in ranking for job in setting.jobs if job.is_ranked]
    scale = Scale.of(job.values.get(key) for job in jobs)
    best = {job.folder for job in ranking[0].jobs}
    sign = jobs[0].selection.sign
    low, high = window([job.value for job in jobs], sign)
    draw_means(axes, key, jobs, scale, ink)
    for job in sorted(jobs, key=lambda job: job.folder in best):
        beyond = not low <= job.value <= high
        colour = ink.eval if job.folder in best else ink.train
        marker = ("^" if sign > 0 else "v") if beyond else "D" if job.folder in best else "o"
        axes.plot(
            [scale.place(job.values.get(key))],
            [min(high, max(low, job.value))],
            marker=marker,
            markersize=6.5 if job.folder in best else 5.5,
            color=colour,
            alpha=0.95 if job.folder in best else 0.55,
            markeredgewidth=0,
            linestyle="none",
            clip_on=False,
            zorder=4 if job.folder in best else 3,
        )
    frame(axes, shortened(key, 44), ink)
    axes.set_ylim(low, high)
    metric_axis(axes)
    label_values(axes, scale)


def draw_means(axes: Axes, key: str, jobs: Sequence[Job], scale: Scale, ink: Ink) -> None:
    """Draws the mean at each value, as a line for numbers, as bars for words; nothing where most values occur once."""
    results: dict[str, list[float]] = defaultdict(list)
    for job in jobs:
        results[text_key(job.values.get(key))].append(job.value)
    if len(results) > max(MAX_LABELS, len(jobs) / 2):
        return
    places = [scale.place(choice) for choice in scale.choices]
    means = [fmean(results[text_key(choice)]) for choice in scale.choices]
    if scale.kind == "words":
        ends = [(place - 0.22, place + 0.22) for place in places]
        axes.hlines(means, *zip(*ends, strict=True), color=ink.train, linewidth=2.4, zorder=2)
    else:
        axes.plot(places, means, color=ink.train, linewidth=1.8, zorder=2)


def draw_curves(axes: Axes, sweep: Sweep, best: Job | None, ink: Ink) -> None:
    """Draws eval.metric of every run over its steps; the best run on top, unfinished runs dashed."""
    drawn = [job for job in sweep.jobs if job.evals]
    for job in drawn:
        steps, values = zip(*job.evals, strict=True)
        chosen = job is best
        axes.plot(
            steps,
            values,
            color=ink.eval if chosen else ink.train,
            alpha=1 if chosen else 0.8 if len(drawn) < 10 else 0.4,
            linewidth=2.4 if chosen else 1.3,
            linestyle="-" if job.is_ranked else (0, (4, 2)),
            marker="o" if chosen or len(values) == 1 else None,
            markersize=4.5,
            zorder=4 if chosen else 2,
        )
    frame(axes, f"{metric_of(drawn)} of {'all runs' if len(drawn) > 1 else 'the run'}", ink)
    over_steps(axes, ink)
    later = [value for job in drawn for _, value in job.evals[1:]]  # before training all are equally bad
    axes.set_ylim(*window(later or [job.evals[0][1] for job in drawn], sweep.selection.sign))
    metric_axis(axes)


def metric_axis(axes: Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")


def label_values(axes: Axes, scale: Scale) -> None:
    """Labels the axis with the swept values that fit."""
    if scale.kind == "log":
        axes.set_xscale("log")
    ticks = scale.ticks() if scale.kind == "words" else without_overlap(scale, scale.ticks())
    axes.xaxis.set_major_locator(FixedLocator([place for place, _ in ticks]))
    axes.xaxis.set_major_formatter(FixedFormatter([label for _, label in ticks]))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    if scale.kind == "words":
        axes.set_xlim(-0.5, len(ticks) - 0.5)
    turned = scale.kind == "words" and sum(len(label) for _, label in ticks) > 36
    for label in axes.get_xticklabels():
        label.set_parse_math(False)
        if turned and len(ticks) > MAX_LABELS:
            label.set(rotation=90, fontsize=8 if len(ticks) <= 2 * MAX_LABELS else 6.5)
        elif turned:
            label.set(rotation=30, rotation_mode="anchor", ha="right")


def without_overlap(scale: Scale, ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Returns the labels that do not overlap the previous one; keeps the first and the last."""
    kept = [*ticks[:1]]
    for n, (place, label) in enumerate(ticks[1:], start=2):
        gap = scale.share(place) - scale.share(kept[-1][0])
        if gap > 0.0115 * (len(label) + len(kept[-1][1])) + 0.015:
            kept.append((place, label))
        elif n == len(ticks) and len(kept) > 1:
            kept[-1] = (place, label)
    return kept


def draw_parallel(axes: Axes, sweep: Sweep, ranking: Sequence[Setting], best: Job, ink: Ink) -> None:
    """Draws each ranked run as one line over all swept keys to its objective; fainter is worse."""
    jobs = sorted((job for setting in ranking for job in setting.jobs if job.is_ranked), key=lambda job: job.cost)
    scales = [Scale.of(job.values.get(key) for job in jobs) for key in sweep.swept]
    low, high = window([job.value for job in jobs], sweep.selection.sign)
    names = short_keys(sweep.swept)
    for place, job in enumerate(jobs):
        heights = [
            scale.share(scale.place(job.values.get(key))) for scale, key in zip(scales, sweep.swept, strict=True)
        ]
        heights.append(max(0.0, min(1.0, (job.value - low) / (high - low))))
        axes.plot(
            range(len(heights)),
            heights,
            color=ink.eval if job is best else ink.train,
            linewidth=2.6 if job is best else 1.5,
            alpha=1 if job is best else 0.85 - 0.65 * place / len(jobs),
            zorder=3 if job is best else 2,
            solid_joinstyle="round",
        )
    for place, (name, scale) in enumerate(zip(names, scales, strict=True)):
        parallel_axis(axes, place, shortened(name, 22), ink)
        ticks = scale.ticks()
        for at, label in ticks[:: -(-len(ticks) // MAX_LABELS)]:
            tick(axes, place, scale.share(at), label, ink)
    parallel_axis(axes, len(names), sweep.selection.name, ink)
    for value in MaxNLocator(nbins=5).tick_values(low, high):
        if low <= value <= high:
            tick(axes, len(names), (value - low) / (high - low), f"{value:.4g}", ink)
    axes.set_xlim(-0.08, len(names) + 0.55)
    axes.set_ylim(-0.06, 1.06)
    axes.axis("off")


def parallel_axis(axes: Axes, place: float, name: str, ink: Ink) -> None:
    """Draws one of the parallel axes with its name above."""
    axes.plot([place, place], [0, 1], color=ink.text, linewidth=1, alpha=0.5, zorder=1)
    axes.text(place, 1.07, name, fontsize=9.5, color=ink.text, ha="left", va="bottom", parse_math=False)


def tick(axes: Axes, place: float, height: float, label: str, ink: Ink) -> None:
    """Writes a value next to its axis, readable over crossing lines."""
    back = {"facecolor": ink.back, "edgecolor": "none", "alpha": 0.8, "pad": 1.2}
    axes.text(
        place + 0.04, height, label, fontsize=8.5, color=ink.text, va="center", zorder=5, bbox=back, parse_math=False
    )


def short_keys(keys: Sequence[str]) -> list[str]:
    """Returns the shortest suffix of each dotted key that distinguishes it from the others."""
    names = []
    for key in keys:
        words = key.split(".")
        names.append(
            next(
                (
                    ".".join(words[-n:])
                    for n in range(1, len(words))
                    if not any(other != key and f".{other}".endswith("." + ".".join(words[-n:])) for other in keys)
                ),
                key,
            )
        )
    return names


INCH = 92  # pixels per inch, at which text in drawings has the size of the page's text
SMALL = (4.0, 2.7)
WIDE = 12.3  # the width of three small ones


@dataclass(frozen=True)
class Drawing:
    """One drawing, its text alternative, and its size."""

    kind: str  # key, curves or parallel
    words: str
    draw: Callable[..., None]  # of axes and ink
    size: tuple[float, float]  # inches
    narrow: tuple[float, float] | None = None  # size of a second version for narrow windows

    def on_page(self, size: tuple[float, float], salt: str) -> str:
        """Returns the drawing as an <svg> in the colours of the page."""
        figure = Figure(figsize=size, layout="constrained")
        self.draw(figure.add_subplot(), ink=MARKED)
        return page_svg(figure, self.words, salt)


def drawings(sweep: Sweep, ranking: Sequence[Setting]) -> Iterator[Drawing]:
    """Yields the drawings that the results so far allow."""
    best = ranking[0].best if ranking else None
    for key in sweep.swept if best else []:
        yield Drawing("key", key_words(key, ranking), partial(draw_key, key=key, ranking=ranking), SMALL)
    if measured := sum(bool(job.evals) for job in sweep.jobs):
        words = f"{sweep.selection.name.capitalize()} over the steps of {measured} run{'s' * (measured != 1)}."
        if best and best.evals:
            words += f" The best, {best.folder}, ends at {metric_text(best.evals[-1][1])}."
        yield Drawing("curves", words, partial(draw_curves, sweep=sweep, best=best), (WIDE, 4.0), SMALL)
    if best and sum(job.is_ranked for job in sweep.jobs) > 1:
        words = f"Every finished run as a line over {', '.join(sweep.swept)} and its {sweep.selection.name}."
        draw = partial(draw_parallel, sweep=sweep, ranking=ranking, best=best)
        axes = len(sweep.swept) + 1
        yield Drawing("parallel", words, draw, (max(WIDE, 1.5 * axes), 4.0), (1.2 * axes, 2.9))


def key_words(key: str, ranking: Sequence[Setting]) -> str:
    """Returns the text alternative of a drawing: the best result at each value."""
    selection = ranking[0].best.selection
    costs: dict[str, float] = {}
    for job in (job for setting in ranking for job in setting.jobs if job.is_ranked):
        value = value_text(job.values.get(key))
        costs[value] = min(job.cost, costs.get(value, math.inf))
    ordered = sorted(costs.items(), key=lambda pair: pair[1])
    shown = ", ".join(f"{metric_text(selection.sign * cost)} at {value}" for value, cost in ordered[:6])
    rest = f", and {len(ordered) - 6} {selection.worse}" if len(ordered) > 6 else ""
    return f"{selection.name.capitalize()} over {key}. {selection.superlative.capitalize()}: {shown}{rest}."


def sheet(sweep: Sweep, ranking: Sequence[Setting]) -> Figure:
    """Returns one figure with all drawings, those over a key side by side."""
    made = list(drawings(sweep, ranking))
    small = [drawing for drawing in made if drawing.kind == "key"]
    wide = [drawing for drawing in made if drawing.kind != "key"]
    columns = min(3, max(2, len(small)))
    lines = math.ceil(len(small) / columns)
    heights = [2.9] * lines + [3.8] * len(wide)
    layout = ConstrainedLayoutEngine(h_pad=0.16, w_pad=0.12)
    figure = Figure(figsize=(4.4 * columns, sum(heights) + 0.7), layout=layout)
    note = "dot: a run; line or bar: mean at a value; diamond: best setting; triangle: beyond the axis" if small else ""
    figure.suptitle(f"{sweep.name}\n{note}", x=0.01, ha="left", fontsize=11, color=PAPER.text, parse_math=False)
    grid = figure.add_gridspec(max(1, len(heights)), columns, height_ratios=heights or [1])
    for place, drawing in enumerate(small):
        drawing.draw(figure.add_subplot(grid[place // columns, place % columns]), ink=PAPER)
    for place, drawing in enumerate(wide, start=lines):
        drawing.draw(figure.add_subplot(grid[place, :]), ink=PAPER)
    return figure
