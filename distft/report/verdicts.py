"""The result of a run in plain words: did it finish, is the model better, does it overfit, what was lost."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from distft.goodput import Attempt
from distft.report.tables import length
from distft.run import FINISHED, Plan, RunFolder
from distft.runtime.errors import FINAL
from distft.tasks.selection import BY_LOSS, Selection

Row = Mapping[str, Any]  # of metrics.jsonl
RISE = 0.01  # of the best held-out value: a smaller loss of it is not called overfitting
LOSSES = {  # parts of the wall time that a user can lower, and how
    "checkpoint": "Try: checkpoint.background=true, or fewer saves",
    "evaluation": "Try: a larger eval.every_steps",
    "data": "The processes waited for rows",
    "lost": "These steps were computed twice",
    "queue": "The job waited for machines",
}
FEWEST = 3  # losses that are averaged at the end
DIVERGED = 1.5  # times the first training loss
LARGE_PART = 0.2  # of the wall time


@dataclass(frozen=True)
class Verdict:
    """A sentence about the run, how it is to be read, and the sources of its numbers."""

    kind: Literal["good", "note", "bad"]
    text: str
    sources: str


def verdicts(
    status: Row,
    plan: Plan | None,
    rows: Sequence[Row],
    goodput: Mapping[str, Any],
    prepared: tuple[str, Mapping[str, Any]] | None,
    exported: str,
    by: Selection = BY_LOSS,
) -> list[Verdict]:
    """Returns the sentences of a run, the most important first.

    goodput: goodput.json; empty without it. prepared: the name and the content of report.json of the prepared data.
    exported: which checkpoint final/ holds, and why. by: eval.metric and eval.goal.
    """
    train = [row for row in rows if row["split"] == "train"]
    evals = [row for row in rows if row["split"] == "eval" and by.value(row) is not None]
    result, is_better = _result(evals, by)
    found = [_end(status, plan), result]
    if is_better:
        found.append(_overfitting(evals, by, status["state"] in FINISHED))
    elif len(evals) > 1:
        found.append(_training(train))
    found.append(_steps(train))
    found += [_data(*prepared)] if prepared else []
    found += [_time(goodput)] if goodput else []
    found += [Verdict("note", f"final/ holds {exported}.", "status.json#best")] if exported else []
    return [verdict for verdict in found if verdict]


def attempts_of(attempts: Sequence[Attempt]) -> Iterator[Verdict]:
    """Yields how often a run was started and which settings changed in between; nothing of a single start."""
    if len(attempts) < 2:
        return
    changed = dict.fromkeys(line.partition(":")[0] for each in attempts for line in each.changed)
    text = f"It was started {len(attempts)} times"
    text += f", with changed settings: {', '.join(changed)}." if changed else ", with the same settings."
    yield Verdict("note", text, "timeline.jsonl")


def continues(run: RunFolder, status: Row) -> Iterator[Verdict]:
    """Yields where the same command continues a failed run from, unless it would fail again."""
    error = status.get("error")
    if status["state"] != "failed" or (isinstance(error, Mapping) and error.get("type") in FINAL):
        return
    try:
        newest = (run.checkpoints / "latest").readlink().name
    except OSError:
        yield Verdict("note", "It saved no checkpoint: the same command starts it again from the beginning.", "")
        return
    text = f"The same command continues it from step {int(newest.rpartition('-')[2]):,}, its last checkpoint."
    yield Verdict("note", text, f"checkpoints/{newest}/manifest.json#step")


def _end(status: Row, plan: Plan | None) -> Verdict | None:
    state, step = status["state"], status.get("step") or 0
    of = f" of {plan.steps:,}" if plan else ""
    sources = "status.json#step status.json#state" + " plan.json#steps" * bool(plan)
    texts = {
        "completed": f"The run completed all its {step:,} steps.",
        "stopped_early": f"Early stopping ended the run at step {step:,}{of}: the held-out rows did not improve.",
        "failed": f"The run failed at step {step:,}{of}. The error is above.",
        "preempted": f"The run was interrupted at step {step:,}{of}. The same command continues it.",
        "running": f"The run is at step {step:,}{of}.",
        "pending": "The run has not begun.",
    }
    if state not in texts:  # a folder without status.json
        return None
    good = state in ("completed", "stopped_early")
    return Verdict("good" if good else "bad" if state == "failed" else "note", texts[state], sources)


def _result(evals: Sequence[Row], by: Selection) -> tuple[Verdict, bool]:
    """Returns what training changed, and whether that is better."""
    if len(evals) < 2:
        text = "Whether the model is better is not known: the run has no two evaluations on held-out rows."
        return Verdict("note", text, f"metrics.jsonl#eval.*.{by.metric}"), False
    (first, before), (last, after) = ((row, row[by.metric]) for row in (evals[0], evals[-1]))
    values = f"from {before:.4g} to {after:.4g}"
    sources = _sources(by, first, last)
    if not by.is_better(after, before):
        text = f"{by.name.capitalize()} did not improve: {values}. The base model is not worse."
        return Verdict("bad", text, sources), False
    change = f" by {abs(after - before) / abs(before):.1%}" if before else ""
    verb = "fell" if after < before else "rose"
    return Verdict("good", f"{by.name.capitalize()} {verb}{change}, {values}.", sources), True


def _training(train: Sequence[Row]) -> Verdict | None:
    """Returns what the training loss did where held-out rows did not improve: it diverged, or fell alone."""
    losses = {row["step"]: row["loss"] for row in train if math.isfinite(row.get("loss") or math.nan)}
    if len(losses) < 2 * FEWEST:
        return None
    first, *_ = losses.values()
    last = fmean([*losses.values()][-FEWEST:])
    highest = max(losses, key=lambda step: losses[step])
    if losses[highest] > DIVERGED * abs(first) or last >= first:
        text = f"Training loss went from {first:.4g} to {last:.4g}, and was {losses[highest]:.4g} at step {highest:,}:"
        text += " it diverged. Try: a lower optimizer.lr, or more schedule.warmup_steps"
    else:
        text = f"Training loss fell from {first:.4g} to {last:.4g}: what it learned does not carry over to other rows."
        text += " Try: fewer steps, a lower optimizer.lr, or more data"
    return Verdict("bad", text, "metrics.jsonl#train.*.loss")


def _overfitting(evals: Sequence[Row], by: Selection, is_finished: bool) -> Verdict | None:
    best, last = min(evals, key=lambda row: by.sign * row[by.metric]), evals[-1]
    sources = _sources(by, best, last)
    if len(evals) < 3:
        text = f"Overfitting cannot be judged from {len(evals)} evaluations. Try: a smaller eval.every_steps"
        return Verdict("note", text, sources)
    lowest = best[by.metric]
    lost = by.sign * (last[by.metric] - lowest) / abs(lowest) if lowest else 0.0
    if lost > RISE:
        verb = "rose" if by.sign > 0 else "fell"
        text = f"It overfits after step {best['step']:,}: {by.name} {verb} by {lost:.1%} from there to the end."
        return Verdict("bad", f"{text} Try: fewer steps, a lower learning rate, or more data", sources)
    if not is_finished:
        return Verdict(
            "good", f"No overfitting so far: {by.name} is {by.superlative} at step {best['step']:,}.", sources
        )
    end = "at the end" if last is best else f"at step {best['step']:,}, and within {RISE:.0%} of that at the end"
    return Verdict("good", f"No overfitting: {by.name} is {by.superlative} {end}.", sources)


def _sources(by: Selection, *rows: Row) -> str:
    return " ".join(f"metrics.jsonl#eval.{row['step']}.{by.metric}" for row in rows)


def _steps(train: Sequence[Row]) -> Verdict | None:
    skipped = [row["step"] for row in train if row.get("skipped")]
    if not skipped:
        return None
    text = f"{len(skipped):,} steps were skipped because loss or gradient was NaN or Inf, the first at {skipped[0]:,}."
    return Verdict("bad", text, "metrics.jsonl#train.*.skipped")


def _data(file: str, report: Mapping[str, Any]) -> Verdict | None:
    streams = report.get("streams", {})
    read, bad, dropped, truncated = (
        sum(stream.get(key, 0) for stream in streams.values()) for key in ("read", "bad", "dropped", "truncated")
    )
    if not read:
        return None
    sources = " ".join(
        f"{file}#streams.{stream}.{key}" for stream in streams for key in ("read", "bad", "dropped", "truncated")
    )
    left = [f"{bad:,} malformed"] * bool(bad) + [f"{dropped:,} dropped by cleaning"] * bool(dropped)
    text = f"Of {read:,} rows read {' and '.join(left) or 'none'} were left out"
    text += (
        f", and {truncated:,} {'was' if truncated == 1 else 'were'} cut at the maximum length." if truncated else "."
    )
    return Verdict("bad" if bad > 0.01 * read else "note", text, sources)


def _time(goodput: Mapping[str, Any]) -> Verdict | None:
    whole = goodput["wall_seconds"] - goodput["seconds"]["idle"]
    if whole <= 0:
        return None
    text = f"{goodput['goodput']:.0%} of {length(whole)} went into steps that were kept."
    sources = "goodput.json#goodput goodput.json#wall_seconds"
    part = max(LOSSES, key=lambda name: goodput["seconds"].get(name, 0.0))
    seconds = goodput["seconds"].get(part, 0.0)
    if seconds < LARGE_PART * whole:
        return Verdict("note", text, sources)
    text += f" {seconds / whole:.0%} went into: {part}. {LOSSES[part]}"
    return Verdict("note", f"{text}", f"{sources} goodput.json#seconds.{part}")
