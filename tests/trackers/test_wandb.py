"""Weights & Biases offline: one id per run folder, the whole run in the last attempt's file, nothing secret."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from wandb.proto import wandb_internal_pb2 as messages

from distft.run import RunFolder
from distft.trackers.wandb import Wandb

PROGRAM = """
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from distft.run import RunFolder
from distft.trackers.contract import Results
from distft.trackers.wandb import Wandb
tracker = Wandb(mode="offline")
tracker.start(RunFolder(Path(sys.argv[1])))
for step in range(1, int(sys.argv[2]) + 1):
    tracker.log({"step": step, "split": "train", "loss": 1 / step})
tracker.log({"step": step, "split": "eval", "loss": 0.5})
if sys.argv[3:]:
    os.kill(os.getpid(), signal.SIGKILL)
(Path(sys.argv[1]) / "report.html").write_text("<p>a report</p>")
samples = [{"prompt": "2 and 2", "expected": "4", "before": "a", "after": "four"}]
evaluated = Path(sys.argv[1]) / "metrics.json"
evaluated.write_text('{"metrics": {"loss": {"value": 1.5, "stderr": 0.25, "n": 9}}}')
tracker.results(Results(samples, [Path(sys.argv[1]) / "report.html", evaluated]))
tracker.finish("completed")
"""


def attempt(run: RunFolder, steps: int, *crash: str) -> None:
    """Tracks one attempt in an own process, as launch does; with `crash` it is killed after its last row."""
    command = [sys.executable, "-c", PROGRAM, str(run.path), str(steps), *crash]
    # a service that wandb started for another test of this process would keep the killed run's id in use
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=480, env=environment)
    assert done.returncode == (-signal.SIGKILL if crash else 0)
    assert done.stdout == done.stderr == ""


def records(data: bytes) -> Iterator[bytes]:
    """Yields the records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    position, parts = 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:  # the rest of a block too short for a header
            position += left
            continue
        size, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        parts += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def history(file: Path) -> list[dict]:
    """Returns the logged rows in wandb's own file."""
    rows = []
    for data in records(file.read_bytes()):
        record = messages.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    """A run that was killed after step 3 and went on from an earlier one: the second attempt is given all its rows."""
    run = RunFolder(tmp_path_factory.mktemp("run"))
    run.config.write_text(yaml.safe_dump({"optimizer": {"lr": 1e-4}}))
    attempt(run, 3, "crash")
    attempt(run, 4)
    return run


@pytest.mark.slow
def test_the_second_attempt_has_the_id_of_the_first_and_all_rows(run):
    [folder] = (run.path / "wandb").glob("offline-run-*")
    name = (run.path / "wandb" / "id").read_text()
    assert folder.name.endswith(name)
    rows = history(folder / f"run-{name}.wandb")
    assert [row["_step"] for row in rows] == [1, 2, 3, 4]
    assert rows[3]["train/loss"] == 0.25 and rows[3]["eval/loss"] == 0.5


@pytest.mark.slow
def test_samples_and_report_are_in_the_offline_files(run):
    tables = [json.loads(file.read_text()) for file in sorted((run.path / "wandb").rglob("*.table.json"))]
    evaluated, shown = tables
    assert evaluated["data"] == [[run.path.name, "loss", 1.5, 0.25, 9]]
    assert shown["columns"] == ["prompt", "expected", "before", "after"]
    assert shown["data"] == [["2 and 2", "4", "a", "four"]]
    assert any("a report" in page.read_text() for page in (run.path / "wandb").rglob("*.html"))
    [folder] = (run.path / "wandb").glob("offline-run-*")
    data = next(folder.glob("*.wandb")).read_bytes()
    artifacts = [messages.Record.FromString(record).artifact for record in records(data)]
    assert [artifact.type for artifact in artifacts if artifact.type == "results"] == ["results"]


@pytest.mark.slow
def test_wandb_records_neither_machine_nor_code(run):
    names = {path.name for path in (run.path / "wandb").rglob("*") if path.is_file()}
    assert "wandb-metadata.json" not in names and "diff.patch" not in names


def test_online_without_a_key_is_an_error_without_a_prompt(tmp_path, monkeypatch, capsys):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(RuntimeError, match=r"set WANDB_API_KEY, .* or set tracker.wandb.mode=offline"):
        Wandb(mode="online").start(RunFolder(tmp_path))
    assert capsys.readouterr() == ("", "")
