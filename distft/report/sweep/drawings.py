"""Draws the objective over each swept key, and the held-out curves of all runs.

Trap: one run that diverged would squeeze all others into a line; an axis ends where the others do, and what lies
beyond is drawn at its edge as a triangle.
"""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator

from distft.report.curves import Ink, frame, over_steps
from distft.report.sweep.jobs import Job, Sweep
from distft.report.sweep.settings import Setting
from distft.report.sweep.values import MOST_LABELS, Scale, shortened, text_key

LOSS = "Held-out loss"


def window(losses: Sequence[float]) -> tuple[float, float]:
    """Returns the ends of an axis that shows these losses; those far above the upper quartile are beyond it."""
    low, high = min(losses), max(losses)
    if len(losses) > 3:
        first, third = np.quantile(losses, [0.25, 0.75])
        if third > first:
            high = max(loss for loss in losses if loss <= third + 3 * (third - first))
    room = 0.06 * (high - low) or 0.01 * abs(low) or 0.01
    return low - room, high + room


def draw_key(axes: Axes, key: str, ranking: Sequence[Setting], ink: Ink) -> None:
    """Draws each run that counts over its value of `key`, and the mean at each value."""
    jobs = [job for setting in ranking for job in setting.jobs if job.counts]
    scale = Scale.of(job.values.get(key) for job in jobs)
    best = {job.folder for job in ranking[0].jobs}
    low, high = window([job.loss for job in jobs])
    draw_means(axes, key, jobs, scale, ink)
    for job in sorted(jobs, key=lambda job: job.folder in best):
        loss = job.loss
        beyond = loss > high
        colour = ink.eval if job.folder in best else ink.train
        marker = "^" if beyond else "D" if job.folder in best else "o"
        axes.plot(
            [scale.place(job.values.get(key))],
            [high if beyond else loss],
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
    loss_axis(axes)
    label_values(axes, scale)


def draw_means(axes: Axes, key: str, jobs: Sequence[Job], scale: Scale, ink: Ink) -> None:
    """Joins the means at each number, or puts a bar at those of each word; of values seen once a mean says nothing."""
    losses: dict[str, list[float]] = defaultdict(list)
    for job in jobs:
        losses[text_key(job.values.get(key))].append(job.loss)
    if len(losses) > max(MOST_LABELS, len(jobs) / 2):
        return
    places = [scale.place(choice) for choice in scale.choices]
    means = [fmean(losses[text_key(choice)]) for choice in scale.choices]
    if scale.kind == "words":
        ends = [(place - 0.22, place + 0.22) for place in places]
        axes.hlines(means, *zip(*ends, strict=True), color=ink.train, linewidth=2.4, zorder=2)
    else:
        axes.plot(places, means, color=ink.train, linewidth=1.8, zorder=2)


def draw_curves(axes: Axes, sweep: Sweep, best: Job | None, ink: Ink) -> None:
    """Draws the held-out loss of every run over its steps, the best run on top, what is not finished dashed."""
    drawn = [job for job in sweep.jobs if job.evals]
    for job in drawn:
        steps, losses = zip(*job.evals, strict=True)
        chosen = job is best
        axes.plot(
            steps,
            losses,
            color=ink.eval if chosen else ink.train,
            alpha=1 if chosen else 0.8 if len(drawn) < 10 else 0.4,
            linewidth=2.4 if chosen else 1.3,
            linestyle="-" if job.counts else (0, (4, 2)),
            marker="o" if chosen or len(losses) == 1 else None,
            markersize=4.5,
            zorder=4 if chosen else 2,
        )
    frame(axes, f"{LOSS} of {'all runs' if len(drawn) > 1 else 'the run'}", ink)
    over_steps(axes, ink)
    later = [loss for job in drawn for _, loss in job.evals[1:]]  # before training all are alike, and high
    axes.set_ylim(*window(later or [job.evals[0][1] for job in drawn]))
    loss_axis(axes)


def loss_axis(axes: Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")


def label_values(axes: Axes, scale: Scale) -> None:
    """Labels the axis with the values themselves, as far as they have room."""
    if scale.kind == "log":
        axes.set_xscale("log")
    ticks = scale.ticks() if scale.kind == "words" else with_room(scale, scale.ticks())
    axes.xaxis.set_major_locator(FixedLocator([place for place, _ in ticks]))
    axes.xaxis.set_major_formatter(FixedFormatter([label for _, label in ticks]))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    if scale.kind == "words":
        axes.set_xlim(-0.5, len(ticks) - 0.5)
    turned = scale.kind == "words" and sum(len(label) for _, label in ticks) > 36
    for label in axes.get_xticklabels():
        label.set_parse_math(False)
        if turned and len(ticks) > MOST_LABELS:
            label.set(rotation=90, fontsize=8 if len(ticks) <= 2 * MOST_LABELS else 6.5)
        elif turned:
            label.set(rotation=30, rotation_mode="anchor", ha="right")


def with_room(scale: Scale, ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Returns the labels that do not touch the one kept before; the first and the last stay."""
    kept = [*ticks[:1]]
    for n, (place, label) in enumerate(ticks[1:], start=2):
        gap = scale.share(place) - scale.share(kept[-1][0])
        if gap > 0.0115 * (len(label) + len(kept[-1][1])) + 0.015:
            kept.append((place, label))
        elif n == len(ticks) and len(kept) > 1:
            kept[-1] = (place, label)
    return kept
