"""Trackio: the rows of the last attempt alone, several runs in one process, and nothing on the terminal."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow
PROGRAM = """
import sys
from pathlib import Path
from distft.run import RunFolder
from distft.trackers.contract import Results
from distft.trackers.trackio import Trackio
folders = [Path(folder) for folder in sys.argv[2:]]
trackers = [Trackio("mine") for _ in folders]
for folder, tracker in zip(folders, trackers):
    tracker.start(RunFolder(folder))
for step in range(1, int(sys.argv[1]) + 1):
    for number, tracker in enumerate(trackers, 1):
        tracker.log({"step": step, "split": "train", "loss": number / step})
for folder, tracker in zip(folders, trackers):
    samples = [{"prompt": "2 and 2", "expected": "4", "before": "a", "after": "four", "verbatim": 0.5}]
    tracker.results(Results(samples, sorted(file for file in folder.iterdir() if file.suffix in (".html", ".json"))))
    tracker.finish("completed")
"""


def track(store: Path, steps: int, *folders: Path) -> None:
    """Tracks an attempt of each run in one process, as launch does of a sweep."""
    command = [sys.executable, "-c", PROGRAM, str(steps), *map(str, folders)]
    environment = os.environ | {"TRACKIO_DIR": str(store)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def rows_of(store: Path, table: str, *columns: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(store / "mine.db") as opened:
        return opened.execute(f"select {', '.join(columns)} from {table}").fetchall()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store after an attempt of 3 steps of one run, and one of 4 steps of it and another run."""
    folder = tmp_path_factory.mktemp("trackio")
    first, second = folder / "first", folder / "second"
    for run in (first, second):
        run.mkdir()
        (run / "config.yaml").write_text(yaml.safe_dump({"optimizer": {"lr": 1e-4}}))
        (run / "report.html").write_text("<p>a report</p>")
        (run / "metrics.json").write_text(json.dumps({"metrics": {"loss": {"value": 1.5, "stderr": 0.25, "n": 9}}}))
    track(folder / "store", 3, first)
    track(folder / "store", 4, first, second)
    return folder / "store"


def test_each_run_of_a_process_has_every_step_once(store: Path) -> None:
    found = [
        (run, step, json.loads(text)) for run, step, text in rows_of(store, "metrics", "run_name", "step", "metrics")
    ]
    losses = {(run, step): row["train/loss"] for run, step, row in found if "train/loss" in row}
    assert losses == {
        (run, step): (1 + (run == "second")) / step for run in ("first", "second") for step in range(1, 5)
    }
    assert sum("train/loss" in row for *_, row in found) == 8
    ids = dict(rows_of(store, "metrics", "run_name", "run_id"))
    assert ids["first"] == (store.parent / "first" / "trackio" / "id").read_text() != ids["second"]


def test_tables_report_and_files_are_in_the_store(store: Path) -> None:
    shown = [json.loads(text) for run, text in rows_of(store, "metrics", "run_name", "metrics") if run == "first"][-1]
    assert shown["samples"]["_value"][0]["after"] == "four"
    [row] = shown["evaluation"]["_value"]
    assert (row["metric"], row["value"], row["stderr"], row["n"]) == ("loss", 1.5, 0.25, 9)
    assert any("a report" in page.read_text() for page in (store / "media").rglob("*.html"))
    kept = [file.read_text() for file in (store / "artifacts").rglob("*") if file.is_file()]
    assert any("a report" in text for text in kept) and any('"stderr"' in text for text in kept)
