"""The result of a run in plain words: did it finish, is the model better, does it overfit, what was lost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from distft.report.tables import length
from distft.run import Plan

Row = Mapping[str, Any]  # of metrics.jsonl
RISE = 0.01  # of the lowest held-out loss: a smaller rise is not called overfitting
LOSSES = {  # parts of the wall time that a user can lower, and how
    "checkpoint": "Try: checkpoint.background=true, or fewer saves",
    "evaluation": "Try: a larger eval.every_steps",
    "data": "The processes waited for rows",
    "lost": "These steps were computed twice",
    "queue": "The job waited for machines",
}
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
) -> list[Verdict]:
    """Returns the sentences of a run, the most important first.

    goodput: goodput.json; empty without it. prepared: the name and the content of report.json of the prepared data.
    exported: which checkpoint final/ holds, and why.
    """
    train = [row for row in rows if row["split"] == "train"]
    evals = [row for row in rows if row["split"] == "eval" and _finite(row.get("loss"))]
    found = [_end(status, plan), _result(evals), _overfitting(evals), _steps(train)]
    found += [_data(*prepared)] if prepared else []
    found += [_time(goodput)] if goodput else []
    found += [Verdict("note", f"final/ holds {exported}.", "status.json#best")] if exported else []
    return [verdict for verdict in found if verdict]


def _end(status: Row, plan: Plan | None) -> Verdict:
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
    good = state in ("completed", "stopped_early")
    return Verdict("good" if good else "bad" if state == "failed" else "note", texts[state], sources)


def _result(evals: Sequence[Row]) -> Verdict:
    if len(evals) < 2:
        text = "Whether the model is better is not known: the run has no two evaluations on held-out rows."
        return Verdict("note", text, "metrics.jsonl#eval.*.loss")
    first, last = evals[0], evals[-1]
    sources = " ".join(f"metrics.jsonl#eval.{row['step']}.loss" for row in (first, last))
    change = (last["loss"] - first["loss"]) / abs(first["loss"]) if first["loss"] else math.nan
    values = f"from {first['loss']:.4g} to {last['loss']:.4g}"
    if last["loss"] < first["loss"]:
        return Verdict("good", f"Held-out loss fell by {-change:.1%}, {values}.", sources)
    return Verdict("bad", f"Held-out loss did not fall: {values}. The base model is not worse.", sources)


def _overfitting(evals: Sequence[Row]) -> Verdict | None:
    if len(evals) < 2:
        return None
    best, last = min(evals, key=lambda row: row["loss"]), evals[-1]
    sources = " ".join(f"metrics.jsonl#eval.{row['step']}.loss" for row in (best, last))
    if len(evals) < 3:
        text = f"Overfitting cannot be judged from {len(evals)} evaluations. Try: a smaller eval.every_steps"
        return Verdict("note", text, sources)
    rise = (last["loss"] - best["loss"]) / abs(best["loss"]) if best["loss"] else 0.0
    if rise > RISE:
        text = f"It overfits after step {best['step']:,}: held-out loss rose by {rise:.1%} from there to the end."
        return Verdict("bad", f"{text} Try: fewer steps, a lower learning rate, or more data", sources)
    return Verdict("good", f"No overfitting: held-out loss is lowest at step {best['step']:,}, near the end.", sources)


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
    text += f", and {truncated:,} were cut at the maximum length." if truncated else "."
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


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
