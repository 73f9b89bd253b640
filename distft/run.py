"""The two contracts every program of a run meets: its Plan, and its folder on disk.

Programs share nothing else: no pickles, no environment variables, no globals.
"""

import json
import math
import os
import shlex
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

State = Literal["pending", "running", "completed", "stopped_early", "preempted", "failed"]
FINISHED: tuple[State, ...] = ("completed", "stopped_early")
BY_YOU = "by you, with"  # how the reason of an end begins that the user has asked for
EXIT_WRONG_CONFIG = 2
EXIT_PREEMPTED = 75
EXIT_AGAIN = 76  # of a job's end, to its own script: the ranks are to be started again
EXIT_HANG = 124  # what `timeout` says too


@dataclass(frozen=True)
class Plan:
    """What a run will do: numbers derived once from config, data and model, then frozen as plan.json."""

    nodes: int
    processes_per_node: int
    world: int
    micro_batch_size: int | None  # rows per forward; None: they are counted in tokens
    accumulation: int  # micro-batches per optimizer step on every rank
    steps: int  # optimizer steps of the whole run
    rows: int  # training rows
    eval_rows: int
    epochs: float  # passes over the training rows in all steps
    tokens: int  # real tokens of all steps
    estimated: bool  # True while the data is not prepared: rows, steps and tokens are guesses
    parameters: int
    model_dir: str | None  # folder with config.json and safetensors; None: a random tiny instance
    tokenizer_dir: str | None  # None: the byte tokenizer of tiny models
    data_dir: str | None  # prepared shards
    memory: dict[str, dict[str, int]]  # strategy -> parameters, gradients, optimizer, total: bytes per process
    reads: dict[str, Any] = field(default_factory=dict)  # what decides which rows a step reads
    base_step: int = 0  # the steps up to here were of a run, or of settings, that read other rows
    base_row: int = 0  # where in the order of its rows this run goes on after them
    micro_batch_tokens: int | None = None  # tokens per forward at most; None: rows are counted
    adapters: int | None = None  # their parameters, which alone are trained; None: the model's own are
    model_name: str = ""  # of what is loaded; "" in plans of older versions
    model_hash: str | None = None  # of what model_dir holds; None: there is none, or the plan is older

    @property
    def rows_dir(self) -> Path:
        """The folder of the prepared rows; RuntimeError where the plan has none, or it is gone."""
        if self.data_dir is None or not Path(self.data_dir).is_dir():
            raise RuntimeError(f"the plan's prepared rows are not there: {self.data_dir}. Try: the same command again")
        return Path(self.data_dir)


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, by name."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def command(self) -> Path:
        return self.path / "command.txt"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def final(self) -> Path:
        return self.path / "final"

    @property
    def eval(self) -> Path:
        return self.path / "eval"

    @property
    def profile(self) -> Path:
        """What train.profile=true records of a step."""
        return self.path / "profile"

    @property
    def stop(self) -> Path:
        return self.path / "stop"

    @property
    def health(self) -> Path:
        """Where the ranks of the running attempt are."""
        return self.path / "health.json"

    @property
    def goodput(self) -> Path:
        """Where the time of all its attempts went."""
        return self.path / "goodput.json"

    @property
    def job(self) -> Path:
        """Which job of a scheduler runs it, or ran it last."""
        return self.path / "job.json"

    def rank_log(self, attempt: int, rank: int) -> Path:
        return self.logs / f"attempt-{attempt}" / f"rank-{rank}.log"

    def rank_error(self, attempt: int, rank: int) -> Path:
        return self.logs / f"attempt-{attempt}" / f"rank-{rank}.error.json"

    def read_config(self) -> dict[str, Any]:
        """Returns the frozen config: plain dicts, every interpolation resolved."""
        values = yaml.safe_load(self.config.read_text())
        if isinstance(values, dict) and isinstance(enabled := values.get("export"), bool):  # of an older version
            values["export"] = {"enabled": enabled}
        return values

    def read_plan(self) -> Plan:
        """Returns the frozen plan; keys of a newer version are left out."""
        known = {each.name for each in fields(Plan)}
        return Plan(**{key: value for key, value in read_json(self.plan).items() if key in known})

    def read_commands(self) -> list[list[str]]:
        """Returns the words of each launch's command line, the first launch first; none when there is no command.txt.

        ValueError when the file is not shell.
        """
        words = shlex.split(self.command.read_text(), comments=True) if self.command.is_file() else []
        begins = [i for i, word in enumerate(words) if words[i : i + 3] == ["python", "-m", "distft.launch"]] or [0]
        return [words[begin:end] for begin, end in zip(begins, [*begins[1:], len(words)], strict=True) if words]

    def add_command(self, command: str, about: str) -> None:
        """Adds a launch's command line to command.txt, after a comment `about` it where it is not the first."""
        if self.command.is_file() and (before := self.command.read_text()):
            about = " ".join(about.split())
            self.command.write_text(f"{before.rstrip()}\n# {about}\n{command}\n")
        else:
            self.command.write_text(f"{command}\n")

    def write_plan(self, plan: Plan) -> None:
        write_json(self.plan, asdict(plan))

    def read_status(self) -> dict[str, Any]:
        """Returns state, step, attempt, exit_code, error, reason; all empty before the first write.

        reason: of a run that was stopped, by whom or what.

        A loss of power may leave the file empty: then the attempts are those that have logs.
        """
        empty = {"state": None, "step": 0, "attempt": 0, "exit_code": None, "error": None, "reason": None}
        try:
            return empty | read_json(self.status)
        except FileNotFoundError:
            return empty
        except ValueError:
            logged = [int(folder.name.removeprefix("attempt-")) for folder in self.logs.glob("attempt-*")]
            return empty | {"attempt": max(logged, default=0)}

    def write_status(self, **changes: Any) -> None:
        """Merges `changes` into status.json by one atomic rename; a reason is of one state, and goes with it."""
        reason = {"reason": None} if "state" in changes else {}
        now = {"time": time.time(), "host": socket.gethostname()}
        write_json(self.status, self.read_status() | reason | changes | now)

    def read_metrics(self, split: str | None = None) -> Iterator[dict[str, Any]]:
        """Yields the rows of metrics.jsonl in order; a last line cut off by a crash is left out."""
        if not self.metrics.is_file():
            return
        for line in self.metrics.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                row = read_row(line)
                if split is None or row["split"] == split:
                    yield row


def state_in_words(status: Mapping[str, Any]) -> str:
    """Returns the state that status.json holds, and who or what has stopped the run: the user or something else."""
    state, reason = str(status["state"] or "not started").replace("_", " "), status.get("reason")
    if not reason:
        return state
    if not reason.startswith(BY_YOU):
        return f"{state} ({reason})"
    return f"stopped {reason}" if state == "preempted" else f"{state}, stopped {reason}"


class StepReport:
    """Tells in status.json which step a running attempt is at, for the one process that writes there.

    Trap: on a shared filesystem every file made or renamed is a request to one server. So the file is not read back,
    and replaced at most once in SECONDS; metrics.jsonl has every step.
    """

    SECONDS = 1.0

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.others = run.read_status() | {"state": "running", "host": socket.gethostname()}
        self.due = 0.0

    def tell(self, step: int) -> None:
        if time.monotonic() >= self.due:
            write_json(self.run.status, self.others | {"step": step, "time": time.time()})
            self.due = time.monotonic() + self.SECONDS


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def json_text(value: Any, **options: Any) -> str:
    """Returns strict JSON, which every reader takes: NaN and infinities, which JSON does not have, are null.

    options: of json.dumps.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:  # the usual case must not pay for the search
        return json.dumps(_without_non_finite(value, "", {}), allow_nan=False, **options)


def row_text(row: dict[str, Any]) -> str:
    """Returns a row of metrics.jsonl as strict JSON; `reason` says of each null what it was: {"loss": "NaN"}."""
    reasons: dict[str, str] = {}
    row = _without_non_finite(row, "", reasons)
    return json_text(row | {"reason": reasons} if reasons else row)


def read_row(text: str | bytes) -> dict[str, Any]:
    """Returns a row of metrics.jsonl as it was before `row_text`; also of files that hold NaN itself."""
    row = json.loads(text)
    reasons = row.pop("reason") if isinstance(row, dict) and isinstance(row.get("reason"), dict) else {}
    for key, word in reasons.items():
        *groups, name = key.split(".")
        at: Any = row
        for group in groups:
            at = at[int(group)] if isinstance(at, list) else at[group]
        at[name] = float(word)
    return row


def _without_non_finite(value: Any, path: str, reasons: dict[str, str]) -> Any:
    """Returns the value with null for each number that is not finite, which it notes under its dotted key."""
    if isinstance(value, float) and not math.isfinite(value):
        reasons[path] = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return None
    if isinstance(value, dict):
        return {key: _without_non_finite(each, f"{path}.{key}".lstrip("."), reasons) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_non_finite(each, f"{path}.{i}", reasons) for i, each in enumerate(value)]
    return value


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as strict JSON, so that a reader sees the old file or the new one, never a part."""
    beside, text = path.with_name(f".{path.name}.{os.getpid()}"), json_text(value, indent=2) + "\n"
    try:
        beside.write_text(text)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text)
    os.replace(beside, path)


class MetricsLog:
    """Appends rows to metrics.jsonl; only rank 0 has one."""

    def __init__(self, path: Path, start_step: int) -> None:
        """Drops rows after `start_step`, which this attempt will make again, all of them where it begins, with an
        evaluation before the first step, and a line cut off by a crash."""
        self.path = path
        self.dropped: list[dict[str, Any]] = []
        if path.is_file():
            lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            rows = list(map(read_row, lines))
            last = start_step or -1
            kept = "".join(line for line, row in zip(lines, rows, strict=True) if row["step"] <= last)
            self.dropped = [row for row in rows if row["step"] > last]
            beside = path.with_name(f".{path.name}.kept")
            beside.write_text(kept)
            os.replace(beside, path)
        self.file = path.open("a", buffering=1)

    def write(self, row: dict[str, Any]) -> None:
        """Appends one line, with the time; it is with the operating system when this returns."""
        self.file.write(row_text(row | {"time": time.time()}) + "\n")
