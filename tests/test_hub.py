"""Files are fetched from a hub once, at a pinned commit, and trained from without the hub.

Libraries read the hub's address and the folder of its files as they are imported. So that the imports can be done
before (tests.support.warm), the hubs of all tests have one address, and the folder is relative to the test's.
"""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from distft.data.tokenize import byte_tokenizer
from tests.support.hub_server import Fault, Files, Hub, files_of, hub
from tests.support.ranks import free_port
from tests.support.warm import python

pytestmark = pytest.mark.slow
TOKEN = "hf_secret0123456789abcdef"
ROWS = "".join(json.dumps({"prompt": f"{n} and one", "completion": str(n + 1)}) + "\n" for n in range(8))


@pytest.fixture(scope="session")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A model of two layers with a byte tokenizer, as transformers writes it."""
    folder = tmp_path_factory.mktemp("tiny")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 128}
    config = LlamaConfig(vocab_size=512, num_attention_heads=2, num_key_value_heads=2, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return files_of(folder)


@cache
def port_of_hub() -> int:
    return free_port()


@pytest.fixture
def served(model_files: Files) -> Iterator[Hub]:
    with hub(port_of_hub()) as each:
        each.push("org/tiny", model_files)
        each.push("org/rows", {"train.jsonl": ROWS.encode(), "README.md": b"# rows\n"}, kind="datasets")
        yield each


def run(command: str, folder: Path, *overrides: str, online: bool = False, **variables: str):
    """Runs a command of distft with nothing but what the hub at `port_of_hub` has; offline without one."""
    home = {"HF_HOME": "huggingface", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0" if online else "1"}
    if online:
        home |= {"HF_ENDPOINT": f"http://127.0.0.1:{port_of_hub()}", "HF_HUB_ETAG_TIMEOUT": "2"}
    environment = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
    words = ["cache_dir=cache", "data.eval=null", "train.global_batch_size=2", "train.micro_batch_size=1", *overrides]
    words = list(overrides) if command == "evaluate" else words
    return subprocess.run(
        [python(**home), "-m", f"distft.{command}", *words],
        cwd=folder, env=environment | home | variables, capture_output=True, text=True, check=False, timeout=480,
    )  # fmt: skip


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_fetched_files_train_without_the_hub(served: Hub, tmp_path: Path) -> None:
    served.token = TOKEN
    words = ["model.path=org/tiny", "data.train=org/rows"]
    fetched = run("prepare", tmp_path, *words, online=True, HF_TOKEN=TOKEN)
    assert fetched.returncode == 0, fetched.stderr
    served.stop()
    done = run("launch", tmp_path, *words, "name=first", "train.max_steps=2", "train.epochs=null", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "runs/first/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["split"] == "train"] == [1, 2]
    assert (tmp_path / "runs/first/final/model.safetensors").is_file()
    everything = fetched.stdout + fetched.stderr + done.stdout + done.stderr
    assert TOKEN not in everything
    assert [path for path in files_below(tmp_path) if TOKEN.encode() in path.read_bytes()] == []


def test_rows_of_the_hub_and_of_a_file_are_evaluated_together(served: Hub, tmp_path: Path) -> None:
    model = tmp_path / "model"
    for name, content in served.find("models", "org/tiny", "main")[1].items():  # pyright: ignore
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(content)
    (tmp_path / "own.jsonl").write_text(json.dumps({"prompt": "5 and five", "completion": "10"}) + "\n")
    words = ["run=model", "data.eval=[{path: org/rows, split: train}, own.jsonl]", "label=both", "out=out", "--json"]
    done = run("evaluate", tmp_path, *words, "slices=[source]", online=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rows"] == 9 and found["label"] == "both"
    assert sorted(each["n"] for each in found["slices"]["source"].values()) == [1, 8]
    wrong = run("evaluate", tmp_path, "run=model", "data.eval=[org/rows, own.jsonl]")
    assert wrong.returncode == 2 and "a list has no name for its results. Try: label=test" in wrong.stderr


def test_a_pin_stays_when_the_hub_moves_on(served: Hub, model_files: Files, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(ROWS)
    words = ["model.path=org/tiny", "data.train=rows.jsonl"]
    assert run("prepare", tmp_path, *words, online=True).returncode == 0
    [pin] = (tmp_path / "cache/hub/pins").iterdir()
    first = json.loads(pin.read_text())
    assert first["commit"] == next(iter(served.commits["models", "org/tiny"]))
    newer = served.push("org/tiny", model_files | {"model.safetensors": b"newer"})
    count = len(served.requests)
    assert run("prepare", tmp_path, *words, online=True).returncode == 0
    assert json.loads(pin.read_text()) == first and served.requests[count:] == []
    for path in files_below(Path(first["folder"])):
        path.unlink()
    Path(first["folder"]).rmdir()  # cleaned away by hand: the same commit comes again
    assert run("prepare", tmp_path, *words, online=True).returncode == 0
    assert json.loads(pin.read_text()) == first and first["commit"] != newer


WRONG = "Invalid credentials in Authorization header"
API, FILE = "/api/models/org/tiny", "GET .*model.safetensors"
GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model org/tiny is restricted"}
AGAIN = "run the same command again"
CASES = [
    ("no_token", Fault(401), 2, "requires a token", "`hf auth login` or HF_TOKEN"),
    ("wrong_token", Fault(401, message=WRONG), 2, "refuses the token", "HF_TOKEN"),
    ("gated", Fault(403, GATED), 2, "it is gated (403)", "request access at {endpoint}/org/tiny, then run"),
    ("gated_files", Fault(403, GATED, where=FILE.replace("GET", "HEAD")), 2, "it is gated", "request access at"),
    ("misspelt", None, 2, "has no such model (404)", "{endpoint}/models?search=tinny"),
    ("revision", None, 2, "it has no such revision (404)", "{endpoint}/org/tiny/commits/main"),
    ("rows", Fault(403, GATED, where="/api/datasets"), 2, "it is gated", "{endpoint}/datasets/org/rows"),
    ("offline", None, 2, "HF_HUB_OFFLINE=1", "`distft prepare` where the hub can be reached"),
    ("limit", Fault(429, {"Retry-After": "1234"}), 1, "rate limited, retry in 1234 s (429)", AGAIN),
    ("limit_files", Fault(429, {"Retry-After": "1234"}, where=FILE), 1, "rate limited, retry in 1234 s", AGAIN),
    ("down", Fault(503, {"Retry-After": "0"}, where=API), 1, "failed (503)", AGAIN),
    ("cut", Fault(cut=0, where=FILE), 1, "the download was interrupted", AGAIN),
    ("hang", Fault(hang=True, where=API), 1, "does not answer", "HF_ENDPOINT"),
    ("refused", None, 1, "cannot be reached", "Connection refused"),
]  # fmt: skip
OVERRIDES = {
    "misspelt": ["model.path=org/tinny", "data.train=rows.jsonl"],
    "revision": ["model.path=org/tiny", "model.revision=v9", "data.train=rows.jsonl"],
    "rows": ["model.tiny=true", "data.train=org/rows"],
}


@pytest.fixture
def failure(name: str, model_files: Files, tmp_path: Path):
    """Runs a case; afterwards its fault is removed."""
    fault = {case[0]: case[1] for case in CASES}[name]
    (tmp_path / "rows.jsonl").write_text(ROWS)
    with ExitStack() as stack:
        if name == "refused":
            deaf = stack.enter_context(socket.socket())
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            deaf.bind(("127.0.0.1", port_of_hub()))
        else:
            served = stack.enter_context(hub(port_of_hub()))
            served.push("org/tiny", model_files)
            served.push("org/rows", {"train.jsonl": ROWS.encode()}, kind="datasets")
            served.faults = [fault] if fault else []
        words = OVERRIDES.get(name, ["model.path=org/tiny", "data.train=rows.jsonl"])
        given = {} if name == "no_token" else {"HF_TOKEN": TOKEN}
        return run("prepare", tmp_path, *words, online=name != "offline", **given)


@pytest.mark.parametrize(
    ("name", "code", "reason", "remedy"), [(n, *rest) for n, _, *rest in CASES], ids=[case[0] for case in CASES]
)
def test_each_failure_is_one_line_with_a_fix(failure: Any, tmp_path: Path, code: int, reason: str, remedy: str) -> None:
    done, endpoint = failure, f"http://127.0.0.1:{port_of_hub()}"
    lines = done.stderr.splitlines()
    assert done.returncode == code, done.stderr
    assert reason in lines[-1] and remedy.format(endpoint=endpoint) in lines[-1], done.stderr
    assert len(lines) == (2 if code == 2 else 1), done.stderr
    assert done.stdout == "" and TOKEN not in done.stderr
    assert not list((tmp_path / "cache").rglob("pins/*"))
    assert [path for path in files_below(tmp_path) if TOKEN.encode() in path.read_bytes()] == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(429, {"Retry-After": "1"}, where=API, times=2),
        pytest.param(Fault(502, where="HEAD .*json", times=1), marks=pytest.mark.soak),  # retried in the same way
        pytest.param(Fault(503, where=FILE, times=1), marks=pytest.mark.soak),
        Fault(cut=100, where=FILE, times=2),
    ],
    ids=["rate_limit", "bad_gateway", "file", "cut"],
)
def test_transient_errors_are_retried(served: Hub, model_files: Files, tmp_path: Path, fault: Fault) -> None:
    (tmp_path / "rows.jsonl").write_text(ROWS)
    served.faults = [fault]
    done = run("prepare", tmp_path, "model.path=org/tiny", "data.train=rows.jsonl", online=True)
    assert done.returncode == 0, done.stderr
    [pin] = (tmp_path / "cache/hub/pins").iterdir()
    fetched = files_of(Path(json.loads(pin.read_text())["folder"]))
    assert fetched["model.safetensors"] == model_files["model.safetensors"] and fault.times == 0


def test_an_interrupted_download_is_completed_by_the_next(served: Hub, model_files: Files, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(ROWS)
    words = ["model.path=org/tiny", "data.train=rows.jsonl"]
    served.faults = [Fault(500, where=FILE)]
    assert run("prepare", tmp_path, *words, online=True).returncode == 1
    served.faults = []
    assert run("plan", tmp_path, *words).returncode == 0  # nothing half-fetched is taken for a model
    before = len(served.requests)
    assert run("prepare", tmp_path, *words, online=True).returncode == 0
    again = [each for each in served.requests[before:] if each.startswith("GET") and "resolve" in each]
    assert [each.rpartition("/")[2] for each in again] == ["model.safetensors"]
