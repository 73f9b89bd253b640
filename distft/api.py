"""The Python API: the same configs, runs and commands as the command line's.

    import distft

    config = distft.compose(model="smollm2_135m", data={"train": "rows.jsonl"}, optimizer={"lr": 1e-5})
    run = distft.fine_tune(config)
    run.metrics("eval")[-1]["loss"], run.final

Training runs in processes of its own, so this one needs neither torch nor an accelerator, and a notebook survives it.
"""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distft.config import Config, ConfigError, read_config
from distft.config import compose as compose_overrides
from distft.config.command import JSON, errors_of, find_run, is_head
from distft.config.freeze import changed_keys
from distft.config.key import at, leaves, shown
from distft.config.overrides import override_of
from distft.config.parts import TARGET_GROUPS, TRACKER
from distft.config.schema import BY_PATH
from distft.launch.history import kept_rows
from distft.launch.stages import with_name
from distft.paths import absolute
from distft.run import EXIT_PREEMPTED, EXIT_WRONG_CONFIG, MetricsRow, Plan, RunFolder, Status, json_text
from distft.runtime.process import start_bound

__all__ = ["Config", "ConfigError", "Run", "RunFailed", "compose", "fine_tune", "open_run"]
_MAX_SHOWN = 12  # last lines of a command that failed
Split = Literal["train", "eval", "train_eval", "warning", "benchmark"]


def compose(*overrides: str, **settings: Any) -> Config:
    """Returns the config of `key=value` texts, as the command line takes them, and of keys by name.

    settings: a word of a group (`optimizer="sgd"`), a value, or a mapping of the keys of a group (`optimizer={"lr":
    1e-5}`), nested like a YAML file. Raises ConfigError with all that is wrong at once.
    """
    texts = [override_of(key, value) for key, value in _flat(settings)]
    return compose_overrides([*overrides, *texts], kept=kept_rows)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted key and value; a mapping that is the value of its key stays whole."""
    for name, value in settings.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and not _is_value(path):
            yield from _flat(value, f"{path}.")
        else:
            yield path, value


def _is_value(path: str) -> bool:
    group, _, rest = path.partition(".")
    of_target = group in TARGET_GROUPS and rest.count(".") >= (group == TRACKER) and rest != ""
    return of_target or (path in BY_PATH and dict in BY_PATH[path].types and not path.startswith("model."))


def overrides_of(config: Config) -> list[str]:
    """Returns the command line that composes to `config`: its words, what was said, and what else differs."""
    words = [f"{group}={word}" for group, word in config.choices.items()]
    values, given = config.values, sorted(config.given)
    found = [*words, *(override_of(key, at(values, key)) for key in given)]
    composed = compose_overrides(found, kept=kept_rows)
    now = dict(leaves(values))
    more = [key for key in changed_keys(composed.values, values) if key in now and key not in given]
    return [*found, *(override_of(key, now[key]) for key in more)]


class RunFailed(RuntimeError):
    """A run, or the export of a completed one, that failed; `run` is its folder, the message names cause and log."""

    def __init__(self, run: "Run", code: int, said: Sequence[str] = ()) -> None:
        error = run.status["error"]
        if error:
            who = "the run" if error["rank"] is None else f"rank {error['rank']} on {error['host']}"
            what = f"{who}: {error['type']}: {error['message']}"
        else:
            failed = (
                [line for line in said if " failed: " in line] or said[-1:] or [f"its launch ended with code {code}"]
            )
            what = f"{run.state}; {failed[0]}" if run.status["state"] else failed[0]
        super().__init__(f"{run.name}: {what}. Log: {(error or {}).get('log') or run.folder.logs}")
        self.run, self.code = run, code


def fine_tune(config: Config) -> "Run":
    """Launches a run, shows its progress, and returns it once it is completed, stopped early, or saved and preempted.

    A run of the same name with the same config continues, and a complete one is returned as it is. Interrupting it
    (Ctrl-C, the stop button of a notebook) saves the run before KeyboardInterrupt goes on. With launcher.wait=false
    it returns once the run is submitted.

    Raises ConfigError for what a launch refuses, and RunFailed when the run fails.
    """
    reserved, named = with_name(config)
    overrides = overrides_of(named)
    code, said = _launch(overrides)
    if code == EXIT_WRONG_CONFIG:
        raise ConfigError(errors_of(said) or [f"name={named.name}: the launch refused it, for the reasons above"])
    run = Run(reserved.path)
    if code not in (0, EXIT_PREEMPTED):
        raise RunFailed(run, code, said)
    return run


def open_run(path: str | Path) -> "Run":
    """Returns the run in a folder; ConfigError when it holds none."""
    return Run(find_run(str(path)).path)


@dataclass(frozen=True)
class Run:
    """One run and what it left, read anew from its folder at each question."""

    path: Path

    @property
    def folder(self) -> RunFolder:
        """Its files by name."""
        return RunFolder(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> Config:
        """What it was frozen with."""
        return read_config(self.folder)

    @property
    def plan(self) -> Plan:
        """Steps, batch sizes, rows and memory, as planned."""
        return self.folder.read_plan()

    @property
    def status(self) -> Status:
        """state, step, attempt, exit_code, error and reason."""
        return self.folder.read_status()

    @property
    def state(self) -> str:
        """pending, running, completed, stopped_early, preempted or failed."""
        return str(self.status["state"])

    @property
    def final(self) -> Path | None:
        """The exported model; None where there is none."""
        return self.folder.final if self.folder.final.is_dir() else None

    @property
    def report(self) -> Path | None:
        """The page of the run; None where there is none."""
        page = self.path / "report.html"
        return page if page.is_file() else None

    def metrics(self, split: Split | None = None) -> list[MetricsRow]:
        """Returns the rows of metrics.jsonl in order; `pandas.DataFrame(run.metrics("train"))` is a table of them.

        split: None for all. Losses are nats per unit of the loss, by default a target token.
        """
        return list(self.folder.read_metrics(split))

    def evaluate(self, **keys: Any) -> Mapping[str, Any]:
        """Measures a checkpoint, the base model or other rows; returns the content of metrics.json.

        keys: those of `distft evaluate`, with `__` for a dot: `evaluate(at="base")`, `evaluate(data__eval="b.jsonl")`.
        """
        return json.loads(_run("evaluate", f"run={self.path}", *_keys(keys), JSON))

    def generate(self, prompts: Sequence[str | Sequence[Mapping[str, str]]], **keys: Any) -> list[Mapping[str, Any]]:
        """Answers prompts, each a text or a list of messages; returns an object with `completion` for each.

        keys: those of `distft generate`: `generate(prompts, at="base", max_new_tokens=64)`.
        """
        with tempfile.TemporaryDirectory() as folder:
            asked, out = Path(folder) / "prompts.jsonl", Path(folder) / "answers.jsonl"
            rows = [{"prompt": each} if isinstance(each, str) else {"messages": list(each)} for each in prompts]
            asked.write_text("".join(f"{json_text(row)}\n" for row in rows))
            _run("generate", f"run={self.path}", f"prompts={asked}", f"out={out}", *_keys(keys))
            return [json.loads(line) for line in out.read_text().splitlines()]

    def export(self, out: str | Path, **keys: Any) -> Path:
        """Writes a checkpoint as another folder, verified against the live model; returns its path.

        keys: those of `distft export`: `export("merged", format="merged")`.
        """
        _run("export", f"run={self.path}", f"out={out}", *_keys(keys))
        return absolute(str(out))

    def stop(self) -> None:
        """Requests that it saves at the next step border and ends; the same config continues it."""
        _run("runs", "stop", f"run={self.path}")


def _keys(keys: Mapping[str, Any]) -> list[str]:
    return [f"{name.replace('__', '.')}={_plain(value)}" for name, value in keys.items()]


def _plain(value: Any) -> str:
    """Returns a value as commands read it that take no overrides."""
    return f"[{','.join(map(_plain, value))}]" if isinstance(value, list | tuple) else shown(value)


def _run(name: str, *words: str) -> str:
    """Returns what a command prints; ConfigError for what it refuses, RuntimeError where it fails."""
    command = [sys.executable, "-m", f"distft.{name}", *words]
    process = start_bound(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said, errors = process.communicate()
    lines = errors.strip().splitlines()
    if process.returncode == EXIT_WRONG_CONFIG and (wrong := errors_of(lines)):
        raise ConfigError(wrong)
    if process.returncode:
        said = "\n".join(lines[-_MAX_SHOWN:])
        raise RuntimeError(f"distft {name} ended with code {process.returncode}: {said}")
    return said


def _launch(overrides: Sequence[str]) -> tuple[int, list[str]]:
    """Runs a launch to its end, its lines on stderr; returns its exit code and its lines.

    On a terminal it draws by itself, and no lines are returned.
    """
    command = [sys.executable, "-m", "distft.launch", *overrides]
    on_terminal = sys.stderr is sys.__stderr__ and sys.stderr is not None and sys.stderr.isatty()
    stdout = 2 if on_terminal else subprocess.PIPE  # as stderr, which is not redirected
    stderr = None if on_terminal else subprocess.STDOUT
    process = start_bound(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True)
    try:
        return _shown(process)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)  # the run saves
        _shown(process)
        raise


def _shown(process: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    """Prints what a launch says until it has ended, but for what it refuses; returns its exit code and its lines."""
    said, is_refused = list[str](), False
    for line in process.stdout or ():
        said.append(line.rstrip("\n"))
        is_refused = is_refused or is_head(said[-1])
        if not is_refused:
            sys.stderr.write(line)
    return process.wait(), said
