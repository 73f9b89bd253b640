"""Runs that OpenAI trains: files are uploaded, a fine-tuning job is created, and its events become metrics.jsonl.

The job is at OpenAI: it continues when this process dies, and the same command follows it. A request to stop cancels
it. The key and the address are read from OPENAI_API_KEY and OPENAI_BASE_URL by the `openai` package alone.
Trap: a create request that is cut off may have made a job, which costs money. So each attempt has a token in its
job's metadata, and a job with that token is looked for before another is created.
"""

import importlib.util
import math
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distft.config.errors import Unavailable
from distft.config.freeze import read_config
from distft.launchers.contract import Outcome
from distft.run import MetricsRow, RunFolder, State, json_text, read_json, row_text, write_json
from distft.runtime import stop
from distft.runtime.environment import redact
from distft.runtime.errors import Failure
from distft.runtime.logs import Patient

TRIES = 5  # to create a job
_SECONDS_BETWEEN_TRIES = 1.0  # and twice that each time
_STATES = {"succeeded": "completed", "failed": "failed", "cancelled": "preempted"}
_SPLITS = {  # prefix of a metric in an event -> split, and names in metrics.jsonl
    "train": ("train_loss", "train_mean_token_accuracy"),
    "eval": ("full_valid_loss", "full_valid_mean_token_accuracy"),
}


@dataclass(frozen=True)
class OpenAIConfig:
    """The keys of launcher=openai."""

    model: str
    learning_rate_multiplier: float | None = None
    suffix: str | None = None
    price: float | None = None  # dollars per million trained tokens
    eval_rows: int = 100
    poll_seconds: float = 10


@dataclass
class Job:
    """RUN/openai/job.json: what the run has at OpenAI."""

    token: str  # in the job's metadata
    attempt: int
    model: str
    files: dict[str, str]  # sha256 -> file id
    id: str | None = None
    last_event: str | None = None
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None
    cost: float | None = None  # dollars

    @staticmethod
    def read(run: RunFolder) -> "Job | None":
        file = job_file(run)
        return Job(**read_json(file)) if file.is_file() else None

    def write(self, run: RunFolder) -> None:
        job_file(run).parent.mkdir(parents=True, exist_ok=True)
        write_json(job_file(run), asdict(self))


def folder_of(run: RunFolder) -> Path:
    return run.path / "openai"


def job_file(run: RunFolder) -> Path:
    return folder_of(run) / "job.json"


def connect() -> Any:
    """Returns the package's client; ValueError without the package or a key."""
    if importlib.util.find_spec("openai") is None:
        raise ValueError("launcher=openai: the package openai is not installed. Try: pip install 'distft[openai]'")
    if not os.environ.get("OPENAI_API_KEY"):
        raise ValueError("launcher=openai: $OPENAI_API_KEY is not set. Try: export OPENAI_API_KEY=...")
    from openai import OpenAI as Client

    return Client(max_retries=TRIES, timeout=60.0)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns an error of the package into one line without secrets: ValueError where OpenAI refuses, else
    Unavailable."""
    from openai import APIConnectionError, APIStatusError

    try:
        yield
    except APIStatusError as error:
        code, text = error.status_code, " ".join(redact(_said(error)).split())
        if code in (408, 409, 429) or code >= 500:
            raise Unavailable(f"OpenAI cannot {what} now ({code}: {text}). Try: the same command later") from error
        ways = {401: "a valid $OPENAI_API_KEY", 403: "a key of a project that may fine-tune"}
        way_out = f". Try: {ways[code]}" if code in ways else ""
        raise ValueError(f"launcher=openai: OpenAI refuses to {what} ({code}: {text}){way_out}") from error
    except APIConnectionError as error:
        cause = redact(str(error.__cause__ or error))
        raise Unavailable(f"OpenAI does not answer, to {what}: {cause}. Try: the same command later") from error


def _said(error: Any) -> str:
    """Returns the message in the body of an error, else the package's own text."""
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or error.message)


class OpenAI:
    """Has each run trained by a fine-tuning job of OpenAI."""

    outlives_launch = False  # a request to stop cancels the job
    is_hosted = True

    def __init__(self, config: OpenAIConfig) -> None:
        self.config = config

    def submit(self, run_dirs: Sequence[Path]) -> "list[HostedRun]":
        """Uploads the files and creates the jobs; ValueError where OpenAI refuses, Unavailable without an answer."""
        return [self._submit(RunFolder(Path(path))) for path in run_dirs]

    def find(self, run_dir: Path) -> "HostedRun | None":
        """Returns the handle of a job that an earlier launch created and whose end is not recorded."""
        run = RunFolder(Path(run_dir))
        job = Job.read(run)
        if job is None or run.read_status()["exit_code"] is not None:
            return None
        client = connect()
        with explained("look for the run's job"):
            job.id = job.id or find_by_token(client, job.token)
        if job.id is None:
            return None
        job.write(run)
        return HostedRun(run, self.config, client, job)

    def _submit(self, run: RunFolder) -> "HostedRun":
        client, before, attempt = connect(), Job.read(run), run.read_status()["attempt"]
        job = Job(uuid.uuid4().hex, attempt, self.config.model, dict(before.files) if before else {})
        run.logs.mkdir(parents=True, exist_ok=True)
        run.metrics.unlink(missing_ok=True)  # a new job begins at its first step
        plan = run.read_plan()
        ids = {
            name: self._uploaded(client, run, job, plan.reads[name]) for name in ("train", "eval") if plan.reads[name]
        }
        with explained("create the fine-tuning job"):
            job.id = self._create(client, job, self._request(run, ids, job.token))
        job.write(run)
        return HostedRun(run, self.config, client, job)

    def _uploaded(self, client: Any, run: RunFolder, job: Job, sha256: str) -> str:
        """Returns the id of a file of the run at OpenAI, uploaded unless it is there."""
        from openai import NotFoundError

        name = next(name for name in ("train", "eval") if run.read_plan().reads[name] == sha256)
        with explained(f"take {name}.jsonl"):
            if sha256 in job.files:
                with suppress(NotFoundError):
                    return client.files.retrieve(job.files[sha256]).id
            with (folder_of(run) / f"{name}.jsonl").open("rb") as file:
                job.files[sha256] = client.files.create(file=file, purpose="fine-tune").id
        job.write(run)
        return job.files[sha256]

    def _request(self, run: RunFolder, ids: dict[str, str], token: str) -> dict[str, object]:
        config = read_config(run)
        chosen = {
            "n_epochs": config.train.epochs if "train.epochs" in config.given else None,
            "batch_size": config.train.global_batch_size if "train.global_batch_size" in config.given else None,
            "learning_rate_multiplier": self.config.learning_rate_multiplier,
        }
        settings = {name: value for name, value in chosen.items() if value is not None}
        request: dict[str, object] = {
            "model": self.config.model,
            "training_file": ids["train"],
            "seed": config.seed,
            "metadata": {"distft": token},
            "method": {"type": "supervised", "supervised": {"hyperparameters": settings}},
        }
        request |= {"validation_file": ids["eval"]} if "eval" in ids else {}
        return request | ({"suffix": self.config.suffix} if self.config.suffix else {})

    def _create(self, client: Any, job: Job, request: Mapping[str, object]) -> str:
        """Returns the id of the created job; after an unclear answer one with the same token counts as it."""
        from openai import APIConnectionError, InternalServerError, RateLimitError

        for number in range(TRIES):
            try:
                return client.with_options(max_retries=0).fine_tuning.jobs.create(**request).id
            except (APIConnectionError, InternalServerError, RateLimitError) as error:
                response = getattr(error, "response", None)
                asked = response.headers.get("retry-after", "") if response is not None else ""
                wait = float(asked) if asked.isdecimal() else _SECONDS_BETWEEN_TRIES * 2**number
                time.sleep(min(wait, 60.0))
                if found := find_by_token(client, job.token):
                    return found
                if number == TRIES - 1:
                    raise
        raise AssertionError("the last try returns or raises")


def find_by_token(client: Any, token: str) -> str | None:
    """Returns the id of the job whose metadata has the token, among the newest 100."""
    newest = client.fine_tuning.jobs.list(limit=100).data
    return next((each.id for each in newest if (each.metadata or {}).get("distft") == token), None)


class HostedRun:
    """One run as a fine-tuning job."""

    is_part = False

    def __init__(self, run: RunFolder, config: OpenAIConfig, client: Any, job: Job) -> None:
        self.run, self.config, self.job, self.name = run, config, job, f"job {job.id} of OpenAI"
        self.say: Callable[[str], None] = lambda text: print(text, file=Patient(sys.stderr))
        self._client = client
        self._ask_due, self._pause = 0.0, min(1.0, config.poll_seconds)
        self._told = ""
        self._is_cancelled = False
        self._time: float | None = None  # of the last step
        run.write_status(state="running")

    def state(self) -> State:
        return self.run.read_status()["state"] or "pending"

    def wait(self, seconds: float) -> Outcome | None:
        """Returns the outcome once the job has ended, after writing it; None before. Writes new metrics."""
        if stop.requested(self.run, self.job.attempt) and not self._is_cancelled:
            self.cancel()
        time.sleep(min(seconds, max(0.0, self._ask_due - time.monotonic())))
        if time.monotonic() < self._ask_due:
            return None
        self._ask_due, self._pause = time.monotonic() + self._pause, min(self._pause * 1.5, self.config.poll_seconds)
        try:
            with explained("report on the job"):
                job = self._client.fine_tuning.jobs.retrieve(self.job.id)
                self._write_events()
        except Unavailable as error:
            self._say(f"retrying: {error}")
            return None
        except ValueError as error:
            goes_on = f"{error}. {self.name} goes on there, and the same command follows it"
            return self._end(Outcome("failed", asdict(Failure.of_run(goes_on))), open_end=True)
        self._say(f"{self.name}: {job.status.replace('_', ' ')}")
        return self._ended(job) if job.status in _STATES else None

    def cancel(self) -> None:
        """Cancels the job; Unavailable when OpenAI does not answer: the job continues."""
        self._is_cancelled, self._ask_due = True, 0.0
        self.say(f"cancelling {self.name}")
        try:
            with explained("cancel the job"):
                self._client.fine_tuning.jobs.cancel(self.job.id)
        except ValueError as error:  # it has ended meanwhile
            self.say(str(error))

    def _ended(self, job: Any) -> Outcome:
        state: State = _STATES[job.status]  # pyright: ignore  # of State
        self.job.fine_tuned_model, self.job.trained_tokens = job.fine_tuned_model, job.trained_tokens
        if self.config.price is not None and job.trained_tokens is not None:
            self.job.cost = job.trained_tokens * self.config.price / 1e6
        self.job.write(self.run)
        error = None
        if state == "failed":
            reason = job.error.message if job.error and job.error.message else "no reason is given"
            code = f" ({job.error.code})" if job.error and job.error.code else ""
            error = asdict(
                Failure.of_run(f"{self.name} failed{code}: {redact(reason)}", folder_of(self.run) / "events.jsonl")
            )
        return self._end(Outcome(state, error))

    def _end(self, outcome: Outcome, open_end: bool = False) -> Outcome:
        """Writes the outcome. open_end: the job may go on, so the run is left open."""
        reason = stop.reason_of(self.run, self.job.attempt) if outcome.state == "preempted" else None
        if outcome.state == "preempted" and reason is None:
            reason = "cancelled at OpenAI"
        code = None if open_end else outcome.exit_code
        self.run.write_status(state=outcome.state, exit_code=code, error=outcome.error, reason=reason)
        return outcome

    def _write_events(self) -> None:
        """Appends events that are new to events.jsonl, and their metrics to metrics.jsonl, oldest first."""
        new = []
        for event in self._client.fine_tuning.jobs.list_events(self.job.id, limit=100):  # newest first, all pages
            if event.id == self.job.last_event:
                break
            new.append(event)
        if not new:
            return
        with (folder_of(self.run) / "events.jsonl").open("a") as log, self.run.metrics.open("a") as metrics:
            for event in reversed(new):
                log.write(json_text(event.to_dict()) + "\n")
                for row in self._rows(event):
                    metrics.write(row_text(row) + "\n")
                    self.run.write_status(state="running", step=row["step"])
        self.job.last_event = new[0].id
        self.job.write(self.run)

    def _rows(self, event: Any) -> Iterator[MetricsRow]:
        """Yields the rows of metrics.jsonl that an event gives."""
        data = event.data if isinstance(event.data, dict) else {}
        if event.type != "metrics" or not isinstance(data.get("step"), int):
            return
        for split, (loss, accuracy) in _SPLITS.items():
            if not isinstance(data.get(loss), int | float):
                continue
            row: MetricsRow = {"step": data["step"], "split": split, "loss": float(data[loss])}
            row |= {"perplexity": math.exp(min(row["loss"], 700.0))} if split == "eval" else {}
            row |= {"accuracy": float(data[accuracy])} if isinstance(data.get(accuracy), int | float) else {}
            if split == "train":
                row["seconds"] = float(event.created_at - self._time) if self._time is not None else 0.0
                self._time = event.created_at
            yield row

    def _say(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self.say(text)
