"""The cost of each fault, from the files of the run and its ranks, and what must hold for the run."""

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from distft.launchers.outcome import elastic_log
from distft.run import RunFolder
from distft.verify_resume.compare import KINDS, last_checkpoint, measure
from tests.chaos.faults import ENDS, EVERY, HUNG, LAUNCHER, NUMBERS, RESTARTS, START, STOPS, Fault
from tests.chaos.runs import Harmed
from tests.support.fake_run import processes_of

SECONDS_TO_SEE_DEATH, SECONDS_OVER_LIMIT, SECONDS_TO_NEXT_STEP = 2.0, 1.0, 15.0
_LOGGED = re.compile(r"^([\d-]{10} [\d:.]{8,15}) rank \d+ .* ended with -?[1-9]", re.MULTILINE)
_LIMIT = re.compile(r"launcher\.hang_seconds(?:_outside)?=([\d.]+)")
_SILENT = re.compile(r"no progress for ([\d.]+) s")
_FIRST_SPIKE = 33  # nothing is unusual before so many steps
_SAME = ("loss", "grad_norm", "accuracy", "learning_rate", "tokens", "skipped")


@dataclass(frozen=True)
class Cost:
    """What one fault has cost its run; None where a fault of its kind has no such number."""

    number: int
    kind: str
    rank: int
    moment: str
    step: int
    fired: bool
    limit_seconds: float = 0.0  # that a silence may last
    seen_seconds: float | None = None  # from the fault to whoever starts the run again knowing of it
    ended_seconds: float | None = None  # from there to the end of all ranks
    next_step_seconds: float | None = None  # from the fault to the end of the next step that is made
    lost_steps: int | None = None  # that are made again
    reported: str = ""


def costs(harmed: Harmed) -> list[Cost]:
    """Returns what every fault of a run has cost."""
    fired, steps = harmed.fired(), harmed.steps()
    restarts = {each["attempt"]: each for each in harmed.restarts()}
    found = []
    for fault in harmed.faults:
        about = (fault.number, fault.kind, fault.rank, fault.moment, fault.step)
        at = fired.get(fault.number)
        if fault.kind in ENDS and at is not None:
            found.append(Cost(*about, True, **_of_end(harmed, fault, at, steps, restarts.get(at["attempt"]))))
        else:
            found.append(Cost(*about, at is not None or fault.kind not in ENDS, reported=_report_of(harmed, fault)))
    return found


def _of_end(
    harmed: Harmed, fault: Fault, at: dict[str, Any], steps: list[dict[str, Any]], restart: dict[str, Any] | None
) -> dict[str, Any]:
    later = [each for each in steps if each["attempt"] > at["attempt"]]
    done = [each["step"] for each in steps if each["attempt"] == at["attempt"]]  # other ranks may have made one more
    cost: dict[str, Any] = {}
    if later:
        cost["next_step_seconds"] = later[0]["time"] - at["time"]
        cost["lost_steps"] = max([*done, at["done"]]) - later[0]["step"] + 1 if fault.moment not in START else 0
    if fault.kind in RESTARTS and restart is not None:
        error = restart["error"]
        seen = _noticed(harmed.run, at) or restart["time"]
        if fault.kind in HUNG and (silent := _SILENT.search(error["message"])):
            seen = error["time"] + float(silent[1])  # its time is when the silence began
        limit = _LIMIT.search(error["message"])  # the one in force: while a rank saves, the others may be silent longer
        cost["limit_seconds"] = float(limit[1]) if limit else 0.0
        cost |= {"seen_seconds": seen - at["time"], "ended_seconds": restart["time"] - seen}
        cost["reported"] = f"rank {error['rank']}: {error['type']}"
    return cost


def _noticed(run: RunFolder, at: dict[str, Any]) -> float | None:
    """Returns when the elastic process wrote of a rank's end."""
    log = elastic_log(run, at["attempt"])
    said = _LOGGED.findall(log.read_text()) if log.is_file() else []
    times = [datetime.fromisoformat(text).timestamp() for text in said]
    return next((time for time in times if time >= at["time"]), None)


def _report_of(harmed: Harmed, fault: Fault) -> str:
    """Returns what the run itself says of a fault that does not end it."""
    rows = harmed.run.read_metrics("warning")
    words = [row["text"] for row in rows if fault.step <= row["step"] <= fault.step + 1]
    if fault.kind == "disk":
        logs = harmed.run.logs.glob("attempt-*/rank-0.log")
        words = ["Training goes on"] if any("Training goes on" in log.read_text() for log in logs) else []
    return words[0] if words else ""


def faults_left(harmed: Harmed) -> list[str]:
    """Returns the processes and ports that a run has left behind."""
    left = [f"process {pid}" for pid in sorted(processes_of(harmed.run))]
    taken = {each.getsockname()[1] for each in harmed.taken.values()}
    for port in sorted({int(at["port"]) for at in harmed.fired().values()} - taken):
        with socket.socket(socket.AF_INET6) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past what the kernel keeps of old connections
            try:
                probe.bind(("::", port))
            except OSError:
                left.append(f"port {port}")
    return left


def differences(straight: RunFolder, harmed: RunFolder) -> list[str]:
    """Returns what is not bit-equal in two runs: numbers of metrics.jsonl, weights, moments."""
    found = []
    for split in ("train", "eval"):
        wanted, got = ([(row["step"], *(str(row.get(key)) for key in _SAME)) for row in run.read_metrics(split)]
                       for run in (straight, harmed))  # fmt: skip
        if wanted != got:
            odd = next((pair for pair in zip(wanted, got, strict=False) if pair[0] != pair[1]), (len(wanted), len(got)))
            found.append(f"{split}: {odd[1]} instead of {odd[0]}")
    last = last_checkpoint(straight), last_checkpoint(harmed)
    return found + [f"{kind}: {first}" for kind in KINDS if (first := measure(*last, kind).first) is not None]


def broken(harmed: Harmed, found: list[Cost]) -> Iterator[str]:
    """Yields which bars the run has not held."""
    harmful = [cost for cost in found if cost.kind in RESTARTS and cost.fired]
    background = harmed.run.read_config()["checkpoint"]["background"]
    for cost in found:
        who = f"{harmed.run.path.name}: {cost.kind} of rank {cost.rank} in {cost.moment} of step {cost.step}"
        if not cost.fired:
            yield f"{who} did not come"
        allowed = SECONDS_OVER_LIMIT + cost.limit_seconds if cost.kind in HUNG else SECONDS_TO_SEE_DEATH
        if cost in harmful and cost.seen_seconds is None:
            yield f"{who} brought no restart"
        elif cost.seen_seconds is not None and cost.seen_seconds > allowed:
            yield f"{who} was seen after {cost.seen_seconds:.2f} s, {allowed:g} allowed"
        if cost.lost_steps is not None and cost.lost_steps > most_lost(cost, background):
            yield f"{who} cost {cost.lost_steps} steps"
        if cost.kind in STOPS and cost.lost_steps:
            yield f"{who} cost {cost.lost_steps} steps, though it asked the run to save"
        if cost.kind in (*NUMBERS, "disk") and not cost.reported and (cost.kind != "spike" or cost.step > _FIRST_SPIKE):
            yield f"{who} was not reported"
    again = len(harmed.restarts()) + len(harmed.typed) - 1
    due = sum(cost.fired and cost.kind in (*RESTARTS, *STOPS, *LAUNCHER) for cost in found)
    if again != due:
        yield f"{harmed.run.path.name}: started again {again} times after {due} faults that end a start"
    yield from (f"{harmed.run.path.name}: {left} is left" for left in faults_left(harmed))


def most_lost(cost: Cost, background: bool) -> int:
    """Returns the steps that a fault may cost: those since the newest checkpoint that is whole.

    A save in the background is not whole yet while the next steps are made, up to the next save, which waits for it.
    """
    return 2 * EVERY if cost.kind == "corrupt" or (background and cost.moment == "save") else EVERY
