"""`distft report runs=[A,B]`: several runs on one page: what differs in their settings, and what came of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from distft.config.freeze import read_config
from distft.config.key import leaves
from distft.report.curves import MARKED, PANELS, RUN_INKS, Panel, frame, over_steps, page_svg, points
from distft.report.facts import Facts, gather
from distft.report.page import answer_text, breakable, template
from distft.report.settings import PLACES
from distft.report.tables import Fact, words
from distft.run import RunFolder, json_text, state_in_words
from distft.tasks.selection import goal_of

MOST = len(RUN_INKS)


@dataclass(frozen=True)
class Line:
    """A line of a table with a cell for each run; `best` are the numbers of the best cells."""

    name: str
    cells: tuple[Fact | None, ...]
    best: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Answers:
    """A held-out prompt with the answer of each run; None where a run did not answer it."""

    prompt: str
    expected: str
    said: tuple[str | None, ...]


def names_of(runs: Sequence[RunFolder]) -> list[str]:
    """Returns a name for each run: the folder's, with the one above it where two are equal."""
    short = [run.path.name for run in runs]
    long = [f"{run.path.parent.name}/{run.path.name}" for run in runs]
    return [name if short.count(name) == 1 else other for name, other in zip(short, long, strict=True)]


def settings(runs: Sequence[RunFolder], names: Sequence[str]) -> Iterator[Line]:
    """Yields the keys in which the frozen configs differ; of a class the word that chose it."""
    trees = []
    for config in map(read_config, runs):
        tree = dict(leaves(config.values))
        for key in [key for key in tree if key.endswith("._target_")]:
            target, group = tree.pop(key), key.removesuffix("._target_")
            tree = {group: config.choices.get(group, target)} | tree
        trees.append(tree)
    for key in dict.fromkeys(key for tree in trees for key in tree):
        values = [json_text(tree[key]) if key in tree else "" for tree in trees]
        if len(set(values)) > 1 and key not in PLACES:
            cells = (Fact(key, value, f"{name}/config.yaml#{key}") for name, value in zip(names, values, strict=True))
            yield Line(key, tuple(cells))


def results(facts: Sequence[Facts], names: Sequence[str]) -> Iterator[Line]:
    """Yields held-out metrics of the last evaluation, then what training took."""
    cells: list[Fact | None]
    for metric in dict.fromkeys(change.name for each in facts for change in each.changes):
        cells, values = [], []
        for each, name in zip(facts, names, strict=True):
            change = next((change for change in each.changes if change.name == metric), None)
            values.append(change.after if change else None)
            text = f"{change.before:.4g} → {change.after:.4g}" if change else ""
            cells.append(Fact(metric, text, _of(name, " ".join(change.sources))) if change else None)
        yield Line(metric, tuple(cells), _best(values, goal_of(metric, "auto") == "minimize"))
    for title in dict.fromkeys(fact.name for each in facts for fact in each.numbers + each.goodput):
        found = [next((fact for fact in each.numbers + each.goodput if fact.name == title), None) for each in facts]
        cells = [fact and fact._replace(source=_of(name, fact.source)) for fact, name in zip(found, names, strict=True)]
        yield Line(title, tuple(cells))


def _of(name: str, sources: str) -> str:
    return " ".join(f"{name}/{source}" for source in sources.split())


def _best(values: Sequence[float | None], lower: bool) -> frozenset[int]:
    known = [value for value in values if value is not None]
    if len(set(known)) < 2:
        return frozenset()
    best = min(known) if lower else max(known)
    return frozenset(i for i, value in enumerate(values) if value == best)


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
        "of": _of,
    }
    return page.render(values)


def write(runs: Sequence[RunFolder], out: Path) -> None:
    out.write_text(render(runs))
