"""A fine-tuning job of OpenAI, by the command line, against a server on the loopback that speaks its API."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distft.config import ConfigError
from distft.launch.__main__ import main
from distft.launchers.openai import Job, OpenAI, OpenAIConfig
from distft.run import EXIT_PREEMPTED, RunFolder, read_json
from tests.support.openai_server import KEY, Fault, OpenAIServer
from tests.support.warm import python

pytestmark = pytest.mark.slow
MODEL = "gpt-4o-mini-2024-07-18"
ENDLESS = ("queued", "running")  # the states of a job that does not end


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    found = OpenAIServer()
    yield found
    found.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 rows that ask whether a number is even."""
    rows = [
        [{"role": "user", "content": f"Is {i} even?"}, {"role": "assistant", "content": "odd" if i % 2 else "even"}]
        for i in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return tmp_path


def overrides(folder: Path) -> list[str]:
    given = ["launcher=openai", f"launcher.model={MODEL}", f"data.train={folder / 'rows.jsonl'}", "data.eval=0.3"]
    return [*given, f"runs_dir={folder}", f"cache_dir={folder / 'cache'}", "name=run", "launcher.poll_seconds=0.1"]


def start(folder: Path, server: OpenAIServer, *words: str, key: str = KEY) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [python(), "-m", "distft", "launch", *overrides(folder), *words],
        env=os.environ | {"OPENAI_API_KEY": key, "OPENAI_BASE_URL": server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(folder: Path, server: OpenAIServer, *words: str, key: str = KEY) -> tuple[int, str]:
    process = start(folder, server, *words, key=key)
    said, errors = process.communicate(timeout=240)
    return process.returncode, said + errors


def wait_for(server: OpenAIServer, request: str) -> None:
    deadline = time.monotonic() + 120
    while request not in server.requests:
        assert time.monotonic() < deadline, f"{request} did not come"
        time.sleep(0.02)


def test_a_run_trains_at_openai_also_through_faults(folder: Path, server: OpenAIServer) -> None:
    """Every kind of request meets a fault; the job that was created although its answer was lost is the only one."""
    server.faults = [
        Fault("POST /files", 429, {"Retry-After": "1"}),
        Fault("POST /fine_tuning/jobs", 429, {"Retry-After": "0"}),
        Fault("POST /fine_tuning/jobs", 0, after=True),
        Fault("GET /fine_tuning/jobs/ftjob-1/events", 500),
        Fault("GET /fine_tuning/jobs/ftjob-1", 0),
        Fault("POST /chat/completions", 503, {"Retry-After": "0"}),
    ]
    words = ("launcher.price=3", "launcher.suffix=numbers", "launcher.learning_rate_multiplier=0.5")
    code, said = launch(folder, server, *words, "train.epochs=2", "launcher.eval_rows=10", "seed=7")
    assert code == 0 and not server.faults, said
    [job] = server.jobs.values()
    assert job["model"] == MODEL and job["suffix"] == "numbers" and job["seed"] == 7
    assert job["hyperparameters"] == {"n_epochs": 2, "learning_rate_multiplier": 0.5}
    rows = [json.loads(line) for content in server.files.values() for line in content.splitlines()]
    assert len(rows) == 40 and len(server.files["file-1"].splitlines()) > 20

    run = RunFolder(folder / "run")
    assert run.read_status()["state"] == "completed" and run.read_status()["step"] == 5
    assert [row["loss"] for row in run.read_metrics("train")] == [2.0 / step for step in range(1, 6)]
    assert [(row["step"], row["loss"]) for row in run.read_metrics("eval")] == [(2, 1.25), (4, 0.625)]
    assert len((run.path / "openai" / "events.jsonl").read_text().splitlines()) == 6, "each event once"
    held = read_json(run.path / "openai" / "job.json")
    assert held["cost"] == pytest.approx(123456 * 3 / 1e6) and "$0.37" in said
    assert held["fine_tuned_model"] == f"ft:{MODEL}:org:numbers:1" and held["fine_tuned_model"] in said
    assert (run.path / "report.html").is_file()

    evaluated = read_json(run.eval / "latest" / "metrics.json")
    items = [json.loads(line) for line in (run.eval / "latest" / "items.jsonl").read_text().splitlines()]
    right = [item["expected"] == item["answer"] for item in items]
    assert evaluated["rows"] == len(items) == 10 and evaluated["metrics"]["exact_match"]["value"] == sum(right) / 10
    assert all(asked["messages"][-1]["role"] == "user" for asked in server.asked), "without the expected answer"
    assert no_key_in(folder) and KEY not in said
    before = list(server.requests)
    code, said = launch(folder, server, *words, "train.epochs=2", "launcher.eval_rows=10", "seed=7")
    assert code == 0 and server.requests == before, "a finished run prints its result"


def no_key_in(folder: Path) -> bool:
    return not any(KEY.encode() in file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_a_stopped_run_is_cancelled_and_begins_again(folder: Path, server: OpenAIServer) -> None:
    server.states = ENDLESS
    process = start(folder, server)
    wait_for(server, "GET /fine_tuning/jobs/ftjob-1/events")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == EXIT_PREEMPTED, said
    run = RunFolder(folder / "run")
    assert server.jobs["ftjob-1"]["status"] == "cancelled" and run.read_status()["reason"] == "by you, with Ctrl-C"
    server.states = ("failed",)
    code, said = launch(folder, server)
    assert code == 1 and "job ftjob-2 of OpenAI failed (invalid_training_file): line 3 is a duplicate" in said
    assert len(server.files) == 2, "the files of before are used"


def test_a_killed_launch_follows_its_job(folder: Path, server: OpenAIServer) -> None:
    server.states = ENDLESS
    process = start(folder, server)
    wait_for(server, "GET /fine_tuning/jobs/ftjob-1/events")
    process.kill()
    process.communicate()
    server.states = (*ENDLESS, "failed")
    code, said = launch(folder, server)
    assert code == 1 and list(server.jobs) == ["ftjob-1"], said
    assert [row["step"] for row in RunFolder(folder / "run").read_metrics("train")] == [1, 2, 3, 4], "each step once"


@pytest.mark.parametrize(
    ("words", "key", "expected"),
    [
        ((), "sk-another-0123456789abcdef", r"\(401: .*Incorrect API key provided\)\. Try: a valid \$OPENAI_API_KEY"),
        ((), "", r"\$OPENAI_API_KEY is not set\. Try: export OPENAI_API_KEY"),
        (("data.eval=0.95",), KEY, "OpenAI takes no fewer than 10"),
        (("strategy=fsdp", "optimizer.lr=1"), KEY, "strategy=fsdp, optimizer.lr=1 have no effect with launcher=openai"),
        (("data.format=prompt_completion",), KEY, "(?s)40 of 40 rows are refused.*rows.jsonl:1: prompt: is missing"),
    ],
    ids=["refused key", "no key", "too few rows", "settings of a machine", "other rows"],
)
def test_what_is_wrong_is_said_before_a_job(
    words: tuple[str, ...],
    key: str,
    expected: str,
    folder: Path,
    server: OpenAIServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    with pytest.raises(ConfigError, match=expected):
        main([*overrides(folder), *words])
    assert not server.jobs and no_key_in(folder)


def test_a_job_is_asked_about_as_often_as_configured(
    tmp_path: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    server.states = ENDLESS
    server.files["file-1"] = b""
    server.create({"model": MODEL, "training_file": "file-1", "method": {"supervised": {"hyperparameters": {}}}})
    run = RunFolder(tmp_path)
    Job("token", 0, MODEL, {}, "ftjob-1").write(run)
    for seconds, least, most in ((0.05, 5, 60), (1000.0, 1, 1)):
        server.requests.clear()
        handle = OpenAI(OpenAIConfig(MODEL, poll_seconds=seconds)).find(tmp_path)
        assert handle is not None
        until = time.monotonic() + 0.9
        while time.monotonic() < until:
            assert handle.wait(0.02) is None
        assert least <= server.requests.count("GET /fine_tuning/jobs/ftjob-1") <= most
