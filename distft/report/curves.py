"""Draws a run's curves: one figure as SVG and PNG, and single panels that use the colours of the page.

Trap: a step may lack a number or hold NaN; such points are omitted, never drawn as zero.
"""

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

Rows = Sequence[Mapping[str, Any]]  # of metrics.jsonl

MAX_POINTS = 200  # longer curves are drawn as the mean of equal bins, with minimum and maximum as a band


POINTS_PER_INCH = 72  # the unit of matplotlib's SVG


@dataclass(frozen=True)
class Panel:
    """One panel: a number of metrics.jsonl over the steps, of one split or both."""

    title: str
    key: str
    splits: tuple[str, ...] = ("train",)
    from_zero: bool = False

    @property
    def sources(self) -> str:
        return " ".join(f"metrics.jsonl#{split}.*.{GAP_OF.get(self.key, self.key)}" for split in self.splits)


GAP_OF = {"gap": "loss"}  # the key that a computed one is made of


PANELS = (
    Panel("Loss", "loss", ("train", "train_eval", "eval")),
    Panel("Accuracy", "accuracy", ("train", "train_eval", "eval")),
    Panel("Macro F1", "f1_macro", ("eval",)),
    Panel("AUROC", "auroc", ("eval",)),
    Panel("Mean squared error", "mse", ("train", "train_eval", "eval")),
    Panel("Spearman's correlation", "spearman", ("eval",)),
    Panel("Gap: held-out loss minus training loss", "gap", ("eval",)),
    Panel("Learning rate", "learning_rate", from_zero=True),
    Panel("Gradient norm before clipping", "grad_norm", from_zero=True),
    Panel("Tokens per second, all processes", "tokens_per_second", from_zero=True),
    Panel("Peak memory per process, GiB", "peak_memory_gib", from_zero=True),
)


@dataclass(frozen=True)
class Ink:
    """The colours of one drawing."""

    text: str
    line: str
    train: str
    eval: str
    back: str


PAPER = Ink(text="#333a45", line="#d9dde3", train="#7aa6d8", eval="#c2410c", back="#ffffff")
# Placeholders, replaced by CSS variables of the page, so that dark and light mode both work.
MARKED = Ink(text="#010101", line="#020202", train="#030303", eval="#040404", back="#050505")
RUN_INKS = tuple(f"#0a0a{number:02x}" for number in range(8))  # of the runs that a page compares
_VARIABLES = {
    **{ink: f"var(--run{number})" for number, ink in enumerate(RUN_INKS)},
    MARKED.text: "var(--text)",
    MARKED.line: "var(--line)",
    MARKED.train: "var(--train)",
    MARKED.eval: "var(--eval)",
    MARKED.back: "var(--card)",
}


def points(rows: Rows, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps and values of the rows with a finite `key`."""
    kept = [(row["step"], row[key]) for row in rows if row.get(key) is not None and math.isfinite(row[key])]
    return np.array([step for step, _ in kept], float), np.array([value for _, value in kept], float)


def with_gap(rows: Rows) -> Rows:
    """Returns the rows, the evaluations with `gap`: their loss minus that of training rows evaluated at the same step
    (eval.train_rows), else minus the mean training loss since the evaluation before."""
    watched = {row["step"]: row["loss"] for row in rows if row["split"] == "train_eval" and row.get("loss") is not None}
    found: list[Mapping[str, Any]] = []
    losses: list[float] = []
    for row in rows:
        if row["split"] == "train" and row.get("loss") is not None and math.isfinite(row["loss"]):
            losses.append(row["loss"])
        if row["split"] == "eval" and row.get("loss") is not None:
            if row["step"] in watched:
                row = {**row, "gap": row["loss"] - watched[row["step"]]}
            elif losses and not watched:
                row = {**row, "gap": row["loss"] - sum(losses) / len(losses)}
            losses = []
        found.append(row)
    return found


def has_points(rows: Rows, panel: Panel) -> bool:
    return any(len(points([row for row in rows if row["split"] == split], panel.key)[0]) for split in panel.splits)


def draw(axes: Axes, rows: Rows, panel: Panel, ink: Ink) -> None:
    """Fills `axes` with one panel."""
    for split in panel.splits:
        steps, values = points([row for row in rows if row["split"] == split], panel.key)
        if not len(steps):
            continue
        if split == "eval":
            axes.plot(
                steps, values, color=ink.eval, marker="o", markersize=4.5, linewidth=1.8, label="held-out", zorder=3
            )
        elif split == "train_eval":  # evaluated as the held-out rows are: the distance is the generalization gap
            axes.plot(
                steps, values, color=ink.eval, linestyle="--", marker="o", markersize=3, linewidth=1.3, alpha=0.8,
                label="training rows, evaluated", zorder=3,
            )  # fmt: skip
        else:
            draw_train(axes, steps, values, ink)
    frame(axes, panel.title, ink)
    over_steps(axes, ink)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 100 else f"{value:.3g}")
    if panel.from_zero:
        axes.set_ylim(bottom=0, top=1.1 * axes.get_ylim()[1])
    if len(panel.splits) > 1:
        axes.legend(frameon=False, fontsize=9, labelcolor=ink.text, loc="best")


def frame(axes: Axes, title: str, ink: Ink) -> None:
    """Applies the style that all panels share; a `$` in the title is not read as a formula."""
    axes.set_title(title, loc="left", fontsize=10.5, color=ink.text, pad=9, parse_math=False)
    axes.grid(axis="y", color=ink.line, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(ink.line)
    axes.tick_params(colors=ink.text, labelsize=9, length=0)


def over_steps(axes: Axes, ink: Ink) -> None:
    """Formats the horizontal axis for optimizer steps."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlabel("optimizer step", fontsize=9, color=ink.text)


def draw_train(axes: Axes, steps: np.ndarray, values: np.ndarray, ink: Ink) -> None:
    """Draws every step, or for a long run the mean of equal bins within their band."""
    if len(steps) > MAX_POINTS:
        bins = np.array_split(values, MAX_POINTS)
        steps = np.array([each[-1] for each in np.array_split(steps, MAX_POINTS)])
        low, high = [each.min() for each in bins], [each.max() for each in bins]
        axes.fill_between(steps, low, high, color=ink.train, alpha=0.25, linewidth=0)
        values = np.array([each.mean() for each in bins])
    marker = "o" if len(steps) == 1 else None
    axes.plot(steps, values, color=ink.train, linewidth=1.8, label="train", marker=marker)


def sheet(rows: Rows, title: str) -> Figure:
    """Returns one figure with all panels that have points."""
    rows = with_gap(rows)
    panels = [panel for panel in PANELS if has_points(rows, panel)]
    columns = min(3, max(1, len(panels)))
    lines = max(1, math.ceil(len(panels) / columns))
    layout = ConstrainedLayoutEngine(h_pad=0.16, w_pad=0.12)
    figure = Figure(figsize=(4.4 * columns, 3.1 * lines + 0.5), layout=layout)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, color=PAPER.text, parse_math=False)
    for place, panel in enumerate(panels, start=1):
        draw(figure.add_subplot(lines, columns, place), rows, panel, PAPER)
    return figure


def write_sheet(rows: Rows, title: str, folder: Path) -> None:
    """Writes curves.svg and curves.png into `folder`."""
    save(sheet(rows, title), folder / "curves")


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PATH.svg and PATH.png."""
    settle(figure)
    with matplotlib.rc_context({"svg.hashsalt": "distft"}):  # the same run gives the same bytes
        figure.savefig(path.with_name(f"{path.name}.svg"), metadata={"Date": None})
    figure.savefig(path.with_name(f"{path.name}.png"), dpi=150)


def settle(figure: Figure) -> None:
    """Fixes the layout of the figure, with positions rounded to six digits.

    The last bits of the layout solver vary between runs, and the names of an SVG's clip paths depend on them.
    """
    if figure.axes and (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)  # a whole draw would take twice the time
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(float(end), 6) for end in axes.get_position(original=True).bounds)
        axes.set_position((left, bottom, width, height))


def page_panels(rows: Rows) -> Iterable[tuple[Panel, str]]:
    """Yields each panel with points, as an <svg> in the colours of the page that shows values under the pointer."""
    rows = with_gap(rows)
    for number, panel in enumerate(PANELS):
        if not has_points(rows, panel):
            continue
        figure = Figure(figsize=(4.0, 2.7), layout="constrained")
        axes = figure.add_subplot()
        draw(axes, rows, panel, MARKED)
        svg = page_svg(figure, panel.title, f"panel {number}")
        yield panel, svg.replace("</svg>", f"{''.join(hover(axes, values_at(rows, panel)))}</svg>")


def values_at(rows: Rows, panel: Panel) -> dict[float, str]:
    """Returns a line of text for each step with a value, at most MAX_POINTS of them and every evaluation."""
    found: dict[float, dict[str, float]] = {}
    for split in panel.splits:
        steps, values = points([row for row in rows if row["split"] == split], panel.key)
        every = math.ceil(len(steps) / MAX_POINTS) if split == "train" and len(steps) else 1
        for step, value in zip(steps[::-every], values[::-every], strict=True):
            found.setdefault(float(step), {})["held-out" if split == "eval" else split] = float(value)
    return {
        step: "  ".join([f"step {step:,.0f}", *(f"{name} {_short(value)}" for name, value in values.items())])
        for step, values in sorted(found.items())
    }


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def hover(axes: Axes, texts: Mapping[float, str]) -> Iterable[str]:
    """Yields SVG groups, one per step: a strip that the pointer finds, a line and the values, shown by CSS alone.

    texts: step -> what is shown. The figure's layout must be fixed.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    scale = POINTS_PER_INCH / figure.dpi
    height = figure.get_figheight() * POINTS_PER_INCH
    box = axes.get_window_extent()
    left, right, top, bottom = box.x0 * scale, box.x1 * scale, height - box.y1 * scale, height - box.y0 * scale
    at = [float(axes.transData.transform((step, 0))[0]) * scale for step in texts]
    borders = [left, *((one + other) / 2 for one, other in pairwise(at)), right]
    for x, (start, end), text in zip(at, pairwise(borders), texts.values(), strict=True):
        yield (
            f'<g class="hover"><rect x="{start:.1f}" y="{top:.1f}" width="{max(0.0, end - start):.1f}" '
            f'height="{bottom - top:.1f}"/><path d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>'
            f'<text x="{right:.1f}" y="{top + 8:.1f}">{escape(text)}</text></g>'
        )


def page_svg(figure: Figure, title: str, salt: str) -> str:
    """Returns a figure drawn in MARKED as an <svg> in the colours of the page.

    salt: distinct for each drawing of a page, so that their ids differ.
    """
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    settle(figure)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return for_page(buffer.getvalue(), title)


def for_page(svg: str, title: str) -> str:
    """Returns the <svg> element, scalable, labelled for screen readers, in the font and colours of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
    svg = re.sub(r"font:([^;\"<>]*?) '[^;\"<>]*", r"font:\1 var(--font)", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg
