"""All drawings of a sweep on one sheet, and each alone for the page.

Trap: text of a run may hold a `$`, which matplotlib would read as a formula and refuse; no text here is one.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from distft.report.curves import MARKED, PAPER, page_svg
from distft.report.sweep.drawings import LOSS, draw_curves, draw_key
from distft.report.sweep.jobs import Sweep
from distft.report.sweep.parallel import draw_parallel
from distft.report.sweep.settings import Setting
from distft.report.sweep.values import loss_text, value_text

INCH = 92  # pixels of the page's cards: text of a drawing is then as large as the text around it
SMALL = (4.0, 2.7)
WIDE = 12.3  # as three small ones


@dataclass(frozen=True)
class Drawing:
    """One drawing: what it says in words, and how it is made."""

    kind: str  # key, curves or parallel
    words: str
    draw: Callable[..., None]  # of axes and ink
    size: tuple[float, float]  # inches
    narrow: tuple[float, float] | None = None  # of another for narrow windows

    def on_page(self, size: tuple[float, float], salt: str) -> str:
        """Returns it as an <svg> in the page's colours."""
        figure = Figure(figsize=size, layout="constrained")
        self.draw(figure.add_subplot(), ink=MARKED)
        return page_svg(figure, self.words, salt)


def drawings(sweep: Sweep, ranking: Sequence[Setting]) -> Iterator[Drawing]:
    """Yields what can be drawn of the sweep as it is now."""
    best = ranking[0].best if ranking else None
    for key in sweep.swept if best else []:
        yield Drawing("key", key_words(key, ranking), partial(draw_key, key=key, ranking=ranking), SMALL)
    if measured := sum(bool(job.evals) for job in sweep.jobs):
        words = f"{LOSS} over the steps, runs drawn: {measured}."
        if best and best.evals:
            words += f" The best, {best.folder}, ends at {loss_text(best.evals[-1][1])}."
        yield Drawing("curves", words, partial(draw_curves, sweep=sweep, best=best), (WIDE, 4.0), SMALL)
    if best and sum(job.counts for job in sweep.jobs) > 1:
        words = f"Every finished run as a line over {', '.join(sweep.swept)} and its held-out loss."
        draw = partial(draw_parallel, sweep=sweep, ranking=ranking, best=best)
        axes = len(sweep.swept) + 1
        yield Drawing("parallel", words, draw, (max(WIDE, 1.5 * axes), 4.0), (1.2 * axes, 2.9))


def key_words(key: str, ranking: Sequence[Setting]) -> str:
    """Returns a drawing in words: the lowest loss at each value."""
    lowest: dict[str, float] = {}
    for job in (job for setting in ranking for job in setting.jobs if job.counts):
        value = value_text(job.values.get(key))
        lowest[value] = min(job.loss, lowest.get(value, math.inf))
    ordered = sorted(lowest.items(), key=lambda pair: pair[1])
    told = ", ".join(f"{loss_text(loss)} at {value}" for value, loss in ordered[:6])
    rest = f", and {len(ordered) - 6} higher" if len(ordered) > 6 else ""
    return f"{LOSS} over {key}. Lowest: {told}{rest}."


def sheet(sweep: Sweep, ranking: Sequence[Setting]) -> Figure:
    """Returns all drawings on one figure, those over a key beside each other."""
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
