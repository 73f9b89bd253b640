"""Selects a checkpoint: to resume from, to evaluate or export (`best`, `latest`, `step-N`), and after skipped rows.

The manifest holds the row that the next step reads. To skip a window of rows, the manifest is rewritten by one rename,
so every resume from this checkpoint, now or after a restart, reads the same rows.
"""

from pathlib import Path

from distft.checkpoint.format import Damaged, Manifest, read_manifest, step_dir, write_manifest
from distft.checkpoint.retention import best, complete, latest
from distft.run import RunFolder
from distft.tasks.selection import BY_LOSS, Selection


def candidates(checkpoints: Path, resume: str) -> list[Path]:
    """Returns the committed checkpoints that a run may resume from, in the order to try, by checkpoint.resume.

    A path or `never` applies to the first start only. Checkpoints that the run has written since come first, so a
    restart, or the same command again, continues an interrupted run.
    """
    newest_first = complete(checkpoints)[::-1]
    if resume == "auto":
        return newest_first
    own = [folder for folder in newest_first if _started_from(folder, resume)]
    return own if resume == "never" else [*own, Path(resume)]


def _started_from(folder: Path, resume: str) -> bool:
    try:
        return read_manifest(folder).get("resume") == resume
    except Damaged:
        return False


def choose(checkpoints: Path, at: str) -> Path:
    """Returns the folder of `best`, `latest` or `step-N`; ValueError lists the available checkpoints."""
    names = [folder.name for folder in complete(checkpoints)]
    if at in ("latest", "best"):
        found = latest(checkpoints) if at == "latest" else best(checkpoints)
    else:
        step = at.removeprefix("step-")
        found = step_dir(checkpoints, int(step)) if step.isdigit() else None
    if found is None or found.name not in names:
        words = ["latest", *(["best"] if best(checkpoints) else [])] if names else ["none"]
        allowed = ", ".join([*words, *names])
        raise ValueError(f"at={at}: no such checkpoint. Allowed: {allowed}")
    return found


def choose_for_export(
    run: RunFolder, at: str, selection: Selection = BY_LOSS, average_last: int = 2
) -> tuple[list[Path], str]:
    """Returns the checkpoint to export, or those to average, and one line that names them and gives the reason.

    at: `best`, `latest`, `step-N` or `average`; `best` is the latest where no checkpoint is better than step 0.
    selection: of the run's config. ValueError lists the available checkpoints.
    """
    if at == "average":
        return _to_average(run, average_last)
    folder = choose(run.checkpoints, "latest" if at == "best" and best(run.checkpoints) is None else at)
    step = int(folder.name.removeprefix("step-"))
    values = selection.values(list(run.read_metrics("eval")))
    return [folder], f"step {step}: {_why(at, step, values, selection, is_best=folder == best(run.checkpoints))}"


def _to_average(run: RunFolder, count: int) -> tuple[list[Path], str]:
    """Returns the newest `count` checkpoints, oldest first, and one line that names them; ValueError without one."""
    folders = complete(run.checkpoints)[-count:]
    if not folders:
        raise ValueError("at=average: the run has no checkpoint. Allowed: none")
    steps = [str(int(folder.name.removeprefix("step-"))) for folder in folders]
    if len(steps) == 1:
        return folders, f"step {steps[0]}: the only checkpoint, so no mean"
    return folders, f"the mean of {len(steps)} checkpoints, of steps {', '.join(steps[:-1])} and {steps[-1]}"


def _why(at: str, step: int, values: dict[int, float], selection: Selection, is_best: bool) -> str:
    """Returns the reason for choosing this step; values: the metric of the held-out rows by step."""
    name, best_step = selection.name, selection.best_step(values)
    own = f"{name} {values[step]:.4f}" if step in values else ""
    if is_best:
        others = len(values.keys() - {0})
        last = max(values, default=step)
        after = f"; at step {last}, the last, {values[last]:.4f}" if last != step and last in values else ""
        return f"the best of {others} evaluation{'s' * (others != 1)}, {own}{after}"
    latest_one = "the latest checkpoint" if at in ("best", "latest") else "the requested checkpoint"
    if best_step is None:
        return f"{latest_one}; there are no held-out rows" if at == "best" else latest_one
    if best_step == 0:
        return f"{latest_one}; no step is better than step 0, whose {name} is {values[0]:.4f}"
    better = f"; the {selection.superlative} {name} was {values[best_step]:.4f}, at step {best_step}"
    saved = ", which was not saved" if at == "best" else ""
    return latest_one + ("" if best_step == step else better + saved)


def skip_rows(checkpoints: Path, resume: str, step: int, row: int) -> Manifest | None:
    """Makes the steps after the newest checkpoint continue at row `row`; returns the new manifest.

    None when the run has no checkpoint. resume: checkpoint.resume, which excludes checkpoints of an abandoned history.
    step: the step that failed, recorded in the manifest as the end of the skipped window.
    """
    own = (folder for folder in candidates(checkpoints, resume) if folder.parent == checkpoints)
    folder = next(own, None)
    if folder is None or not folder.is_dir():
        return None
    manifest = read_manifest(folder)
    window = {"after_step": manifest["step"], "to_step": step, "rows": [manifest["next_row"], row]}
    skipped = [*manifest.get("skipped", []), window]
    manifest |= {"base_step": manifest["step"], "base_row": row, "next_row": row, "skipped": skipped}
    write_manifest(folder, manifest)
    return manifest
