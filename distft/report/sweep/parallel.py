"""Draws every run as one line over all swept keys to its held-out loss: which values the good runs share."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from distft.report.curves import Ink
from distft.report.sweep.drawings import LOSS, window
from distft.report.sweep.jobs import Job, Sweep
from distft.report.sweep.settings import Setting
from distft.report.sweep.values import MOST_LABELS, Scale, shortened


def draw_parallel(axes: Axes, sweep: Sweep, ranking: Sequence[Setting], best: Job, ink: Ink) -> None:
    """Draws every run that counts as one line over all swept keys to its objective; fainter is worse."""
    jobs = sorted((job for setting in ranking for job in setting.jobs if job.counts), key=lambda job: job.loss)
    scales = [Scale.of(job.values.get(key) for job in jobs) for key in sweep.swept]
    low, high = window([job.loss for job in jobs])
    names = short_keys(sweep.swept)
    for place, job in enumerate(jobs):
        heights = [
            scale.share(scale.place(job.values.get(key))) for scale, key in zip(scales, sweep.swept, strict=True)
        ]
        heights.append(min(1.0, (job.loss - low) / (high - low)))
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
        upright(axes, place, shortened(name, 22), ink)
        ticks = scale.ticks()
        for at, label in ticks[:: -(-len(ticks) // MOST_LABELS)]:
            tick(axes, place, scale.share(at), label, ink)
    upright(axes, len(names), LOSS.lower(), ink)
    for loss in MaxNLocator(nbins=5).tick_values(low, high):
        if low <= loss <= high:
            tick(axes, len(names), (loss - low) / (high - low), f"{loss:.4g}", ink)
    axes.set_xlim(-0.08, len(names) + 0.55)
    axes.set_ylim(-0.06, 1.06)
    axes.axis("off")


def upright(axes: Axes, place: float, name: str, ink: Ink) -> None:
    """Draws one axis of the parallel ones, its name above."""
    axes.plot([place, place], [0, 1], color=ink.text, linewidth=1, alpha=0.5, zorder=1)
    axes.text(place, 1.07, name, fontsize=9.5, color=ink.text, ha="left", va="bottom", parse_math=False)


def tick(axes: Axes, place: float, height: float, label: str, ink: Ink) -> None:
    """Writes a value beside its axis, readable over the lines that cross there."""
    back = {"facecolor": ink.back, "edgecolor": "none", "alpha": 0.8, "pad": 1.2}
    axes.text(
        place + 0.04, height, label, fontsize=8.5, color=ink.text, va="center", zorder=5, bbox=back, parse_math=False
    )


def short_keys(keys: Sequence[str]) -> list[str]:
    """Returns the last word of each key, with as many before it as tell it from the others."""
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
