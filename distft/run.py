"""The two contracts between the programs of a run: its Plan, and its folder on disk.

Programs share nothing else: no pickles, no environment variables, no globals.
"""

import json
import math
import os
import shlex
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import yaml

State = Literal["pending", "running", "completed", "stopped_early", "preempted", "failed"]
FINISHED: tuple[State, ...] = ("completed", "stopped_early")
BENCHMARK = "benchmark"  # split of the rows of metrics.jsonl with scores of benchmarks
BY_YOU = "by you, with"  # prefix of the reason when the user requested the stop
EXIT_WRONG_CONFIG = 2
EXIT_CLOSED_GATE = 3  # of `prepare fail_on=...`: the data are prepared, and exceed a limit
EXIT_PREEMPTED = 75
EXIT_AGAIN = 76  # of `launch.job end`, for the job script: restart the ranks
EXIT_HANG = 124  # as the `timeout` program has it
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML has libyaml
MetricsRow = dict[str, Any]  # a line of metrics.jsonl: JSON values under free keys
RENAMED_TARGETS = {  # prefix of a `_target_` that an older version froze -> this version's
    "distft.strategies.fully_sharded.": "distft.strategies.fsdp.",
    "distft.models.tuning.": "distft.models.adapters.",
}


class Status(TypedDict):
    """status.json. error: a distft.runtime.errors.Failure. reason: who or what stopped the run."""

    state: State | None  # None before the first write
    step: int
    attempt: int
    exit_code: int | None
    error: Mapping[str, Any] | None
    reason: str | None
    time: NotRequired[float]  # of the last write, in seconds since 1970
    host: NotRequired[str]
    best: NotRequired[Mapping[str, object] | None]
    warning: NotRequired[str]  # the newest of the training
    # of jobs of a scheduler
    begun: NotRequired[int]  # the attempt that the job began last
    restarts: NotRequired[int]  # within the job
    timeouts: NotRequired[int]  # requeues at the time limit
    starts: NotRequired[list[int]]
    preflight: NotRequired[str]  # the job start that has passed its preflight
    began: NotRequired[float]


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
    memory: dict[str, dict[str, int]]  # strategy -> part -> bytes per process (distft.plan.memory, distft.plan.step)
    reads: Mapping[str, Any] = field(default_factory=dict)  # everything that determines the rows of a step
    base_step: int = 0  # steps up to here were of a run, or of settings, with other rows
    base_row: int = 0  # position in the order of rows after these steps
    micro_batch_tokens: int | None = None  # most tokens per forward; None: limited in rows
    adapters: int | None = None  # parameters of adapters, which alone are trained; None: full fine-tuning
    model_name: str = ""  # of the loaded model; "" in plans of older versions
    model_hash: str | None = None  # content hash of model_dir; None without one or in plans of older versions
    teacher_dir: str | None = None  # folder of the model that loss.teacher names
    teacher_hash: str | None = None  # content hash of teacher_dir
    forward_tokens: int = 0  # of the largest micro-batch; 0: not known
    attended: float = 0.0  # tokens that a token attends to in its row, on average, without windows; 0: not known
    targets: int = 0  # units of the loss in all steps; 0: not known
    labels: Mapping[str, Any] | None = None  # distft.tasks.labels.Labels of the rows; None: rows without labels

    @staticmethod
    def of(values: Mapping[str, Any]) -> "Plan":
        """Returns the plan of plan.json; unknown keys, of a newer version, are ignored."""
        known = {each.name for each in fields(Plan)}
        return Plan(**{key: value for key, value in values.items() if key in known})

    @property
    def is_hosted(self) -> bool:
        """Whether others train the model: there are no micro-batches here."""
        return self.micro_batch_size is None and self.micro_batch_tokens is None

    @property
    def rows_dir(self) -> Path:
        """The folder of the prepared rows; RuntimeError when the plan has none, or it is missing."""
        if self.data_dir is None or not Path(self.data_dir).is_dir():
            raise RuntimeError(f"the plan's prepared rows are missing: {self.data_dir}. Try: the same command again")
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
    def audit(self) -> Path:
        return self.path / "audit"

    @property
    def profile(self) -> Path:
        """The profile of a step, with train.profile=true."""
        return self.path / "profile"

    @property
    def stop(self) -> Path:
        return self.path / "stop"

    @property
    def health(self) -> Path:
        """The positions of the ranks of the running attempt."""
        return self.path / "health.json"

    @property
    def goodput(self) -> Path:
        """How the time of all attempts was spent."""
        return self.path / "goodput.json"

    @property
    def job(self) -> Path:
        """The scheduler's job that runs it, or ran it last."""
        return self.path / "job.json"

    @property
    def program(self) -> Path:
        """The command that a job runs in place of ranks."""
        return self.path / "program.json"

    @property
    def program_output(self) -> Path:
        """What that command printed."""
        return self.path / "output.txt"

    def write_program(self, words: Sequence[str]) -> None:
        """Records the command that a job runs in place of ranks: a module of distft and its arguments."""
        write_json(self.program, list(words))

    def read_program(self) -> list[str] | None:
        """Returns the command that a job runs in place of ranks; None for a run, whose ranks train."""
        return read_json(self.program) if self.program.is_file() else None

    def rank_log(self, attempt: int, rank: int) -> Path:
        return self.logs / f"attempt-{attempt}" / f"rank-{rank}.log"

    def rank_error(self, attempt: int, rank: int) -> Path:
        return self.logs / f"attempt-{attempt}" / f"rank-{rank}.error.json"

    def read_config(self) -> dict[str, Any]:  # as YAML; distft.config.read_config returns it typed
        """Returns the frozen config: plain dicts, every interpolation resolved."""
        return with_current_names(read_yaml(self.config))

    def read_plan(self) -> Plan:
        """Returns the frozen plan."""
        return Plan.of(read_json(self.plan))

    def read_commands(self) -> list[list[str]]:
        """Returns the words of each launch's command line, the first launch first; empty without command.txt.

        ValueError when the file is not valid shell.
        """
        words = shlex.split(self.command.read_text(), comments=True) if self.command.is_file() else []
        begins = [i for i, word in enumerate(words) if words[i : i + 3] == ["python", "-m", "distft.launch"]] or [0]
        return [words[begin:end] for begin, end in zip(begins, [*begins[1:], len(words)], strict=True) if words]

    def add_command(self, command: str, about: str) -> None:
        """Appends a launch's command line to command.txt, with the comment `about` if it is not the first."""
        if self.command.is_file() and (before := self.command.read_text()):
            about = " ".join(about.split())
            self.command.write_text(f"{before.rstrip()}\n# {about}\n{command}\n")
        else:
            self.command.write_text(f"{command}\n")

    def write_plan(self, plan: Plan) -> None:
        write_json(self.plan, asdict(plan))

    def read_status(self) -> Status:
        """Returns state, step, attempt, exit_code, error, reason; empty before the first write.

        reason: who or what stopped the run.

        A power loss may leave the file empty: then the attempt is the last one with logs.
        """
        empty: Status = {"state": None, "step": 0, "attempt": 0, "exit_code": None, "error": None, "reason": None}
        try:
            return empty | read_json(self.status)
        except FileNotFoundError:
            return empty
        except ValueError:
            logged = [int(folder.name.removeprefix("attempt-")) for folder in self.logs.glob("attempt-*")]
            return {**empty, "attempt": max(logged, default=0)}

    def write_status(self, **changes: Any) -> None:
        """Merges `changes` into status.json by one atomic rename; a new state clears the reason."""
        reason = {"reason": None} if "state" in changes else {}
        now = {"time": time.time(), "host": socket.gethostname()}
        write_json(self.status, self.read_status() | reason | changes | now)

    def read_metrics(self, split: str | None = None) -> Iterator[MetricsRow]:
        """Yields the rows of metrics.jsonl in order; skips a last line cut off by a crash."""
        if not self.metrics.is_file():
            return
        for line in self.metrics.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                row = read_row(line)
                if split is None or row["split"] == split:
                    yield row


def with_current_names(values: Any) -> Any:
    """Returns the values of a config.yaml that an older version may have frozen, with this version's names."""
    if not isinstance(values, dict):
        return values
    tree = dict(values)
    if isinstance(enabled := tree.get("export"), bool):
        tree["export"] = {"enabled": enabled}
    for group, section in values.items():
        if isinstance(section, dict):
            tree[group] = _with_current_target(section)
    if isinstance(trackers := tree.get("tracker"), dict):
        tree["tracker"] = {name: _with_current_target(each) for name, each in named_trackers(trackers).items()}
    return tree


def _with_current_target(section: Any) -> Any:
    target = section.get("_target_") if isinstance(section, dict) else None
    return {**section, "_target_": current_target(target)} if isinstance(target, str) else section


def named_trackers(section: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the trackers by name; an older version froze one at most, without a name."""
    if "_target_" not in section:
        return section
    target = section["_target_"]
    return {} if target is None else {tracker_name(str(target)): section}


def tracker_name(target: str) -> str:
    """Returns the name of a tracker that was set without one: its module's."""
    return target.split(".")[-2] if "." in target else target


def current_target(target: str) -> str:
    """Returns this version's name of the code that a frozen `_target_` names."""
    for old, new in RENAMED_TARGETS.items():
        if target.startswith(old):
            return new + target.removeprefix(old)
    return target


def state_in_words(status: Status) -> str:
    """Returns the state in status.json as text, with who or what stopped the run."""
    state, reason = str(status["state"] or "not started").replace("_", " "), status.get("reason")
    if not reason:
        return state
    if not reason.startswith(BY_YOU):
        return f"{state} ({reason})"
    return f"stopped {reason}" if state == "preempted" else f"{state}, stopped {reason}"


def read_yaml(source: Path | str) -> Any:
    """Returns what plain YAML holds, a file's or a text's; yaml.YAMLError where it is none."""
    loader = Loader(source.read_text() if isinstance(source, Path) else source)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def json_text(value: Any, **options: Any) -> str:
    """Returns strict JSON: NaN and infinities, which JSON does not have, become null.

    options: of json.dumps.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:  # the common case avoids the search
        return json.dumps(_without_non_finite(value, "", {}), allow_nan=False, **options)


def row_text(row: MetricsRow) -> str:
    """Returns a row of metrics.jsonl as strict JSON; `reason` has the value behind each null: {"loss": "NaN"}."""
    reasons: dict[str, str] = {}
    row = _without_non_finite(row, "", reasons)
    return json_text(row | {"reason": reasons} if reasons else row)


def read_row(text: str | bytes) -> MetricsRow:
    """Inverts `row_text`; also reads rows of older versions with a bare NaN."""
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
    """Returns the value with null for each non-finite number, and records it in `reasons` by dotted key."""
    if isinstance(value, float) and not math.isfinite(value):
        reasons[path] = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return None
    if isinstance(value, dict):
        return {key: _without_non_finite(each, f"{path}.{key}".lstrip("."), reasons) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_non_finite(each, f"{path}.{i}", reasons) for i, each in enumerate(value)]
    return value


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as strict JSON atomically: a reader sees the old file or the new one."""
    temporary, text = path.with_name(f".{path.name}.{os.getpid()}"), json_text(value, indent=2) + "\n"
    try:
        temporary.write_text(text)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
    os.replace(temporary, path)
