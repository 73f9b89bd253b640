"""`distft report runs=[A,B]`: several runs on one page: what differs in their settings, and what came of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from distft.report.compared import names_of, results, settings, source_of
from distft.report.curves import MARKED, PANELS, RUN_INKS, Panel, frame, over_steps, page_svg, points
from distft.report.facts import Facts, gather
from distft.report.page import answer_text, breakable, template
from distft.report.tables import words
from distft.run import RunFolder, state_in_words

MOST = len(RUN_INKS)


@dataclass(frozen=True)
class Answers:
    """A held-out prompt with the answer of each run; None where a run did not answer it."""

    prompt: str
    expected: str
    said: tuple[str | None, ...]


def answers(facts: Sequence[Facts]) -> list[Answers]:
    """Returns the sample prompts that at least two runs answered, with their answers after training."""
    prompts = dict.fromkeys((sample.prompt, sample.expected) for each in facts for sample in each.samples)
    found = []
    for prompt, expected in prompts:
        said = [next((s.after for s in each.samples if s.prompt == prompt), None) for each in facts]
        if sum(answer is not None for answer in said) > 1:
            found.append(Answers(prompt, expected, tuple(said)))
    return found


def drawings(facts: Sequence[Facts]) -> Iterator[tuple[Panel, Markup]]:
    """Yields the panels of held-out numbers, else of training's, with a line for each run."""
    for number, panel in enumerate(PANELS):
        split = panel.splits[-1]
        curves = [points([row for row in each.rows if row["split"] == split], panel.key) for each in facts]
        if sum(len(steps) > 0 for steps, _ in curves) < 2:
            continue
        figure = Figure(figsize=(4.0, 2.7), layout="constrained")
        axes = figure.add_subplot()
        for (steps, values), ink in zip(curves, RUN_INKS, strict=False):
            if len(steps):
                axes.plot(
                    steps, values, color=ink, linewidth=1.6, marker="o" if len(steps) < 30 else None, markersize=3
                )
        title = panel.title + (", held-out" if split == "eval" and len(panel.splits) > 1 else "")
        frame(axes, title, MARKED)
        over_steps(axes, MARKED)
        yield panel, Markup(page_svg(figure, title, f"compared {number}"))


def render(runs: Sequence[RunFolder]) -> str:
    """Returns the page of at most MOST runs."""
    names, facts = names_of(runs), [gather(run) for run in runs]
    page = template("compare.html.jinja", in_words=state_in_words, breakable=breakable, words=words, answer=answer_text)
    values = {
        "names": names,
        "facts": facts,
        "settings": list(settings(runs, names)),
        "results": list(results(facts, names)),
        "answers": answers(facts),
        "drawings": list(drawings(facts)),
        "of": source_of,
    }
    return page.render(values)


def write(runs: Sequence[RunFolder], out: Path) -> None:
    out.write_text(render(runs))
