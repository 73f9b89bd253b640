"""The evaluations of a run for its report: each metrics.json that `distft evaluate` wrote under RUN/eval."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distft.evaluate.results import METRICS, number, question_metrics, slice_lines
from distft.run import RunFolder, read_json


@dataclass(frozen=True)
class MetricShown:
    """One metric as text. source: `file#key` of the number. mark: class of the difference: better, worse or note."""

    name: str
    value: str
    half: str
    source: str
    difference: str = ""
    verdict: str = ""
    mark: str = "note"


@dataclass(frozen=True)
class EvaluationShown:
    """One metrics.json."""

    title: str
    about: str
    metrics: list[MetricShown]
    notes: list[str]
    sliced_by: str
    slices: list[str]


def evaluations(run: RunFolder) -> list[EvaluationShown]:
    """Returns the evaluations of a run, the latest step first; files of another form are left out."""
    found = []
    for file in sorted(run.eval.rglob(METRICS)) if run.eval.is_dir() else ():
        folders = [file.parent, *file.parent.parents]
        if any(folder.is_symlink() for folder in folders[: len(file.relative_to(run.eval).parts)]):
            continue  # eval/best and eval/latest are links
        content = _read(file)
        if content is not None:
            found.append((content["step"], content["label"] or "", _shown(run, file, content)))
    return [each for _, _, each in sorted(found, key=lambda each: (-each[0], each[1]))]


def _read(file: Path) -> Any:
    try:
        content = read_json(file)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("metrics"), dict) else None


def _shown(run: RunFolder, file: Path, content: Any) -> EvaluationShown:
    rows = f"{content['rows']:,} items" + (f" of {content['label']}" if content["label"] else ", held-out rows")
    other = content.get("against_model")
    against = f"; against {other['name']}, {other['matched']:,} items in common" if other else ""
    settings = content["settings"]
    scores = "; ".join(f"{name}: {how}" for name, how in (settings.get("scores") or {}).items())
    return EvaluationShown(
        title=content["model"],
        about=f"{rows}{against}; {settings['dtype']}, {settings['strategy'] or 'one process'}",
        metrics=list(_metrics(file.relative_to(run.path).as_posix(), content)),
        notes=[*([scores] if scores else []), *content["notes"]],
        sliced_by=", ".join(content["slices"]),
        slices=list(slice_lines(content)),
    )


def _metrics(file: str, content: Any) -> Iterator[MetricShown]:
    names = [(f"metrics.{name}", name, found) for name, found in content["metrics"].items()]
    names += question_metrics(content)
    for key, name, found in names:
        half = None if found["stderr"] is None else found["high"] - found["value"]
        shown = MetricShown(name, number(found["value"], name), number(half, name), f"{file}#{key}.value")
        if other := content["against"].get(name):
            interval = (
                "" if other["low"] is None else f" ({number(other['low'], name)} to {number(other['high'], name)})"
            )
            word = other["verdict"].partition(";")[0]
            shown = MetricShown(
                shown.name,
                shown.value,
                shown.half,
                shown.source,
                f"{number(other['difference'], name, sign=True)}{interval}",
                other["verdict"],
                word if word in ("better", "worse") else "note",
            )
        yield shown
