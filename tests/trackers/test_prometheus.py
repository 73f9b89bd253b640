"""A scrape reads a complete file in Prometheus' format, whatever the run's name."""

import math
import re
from pathlib import Path

import pytest

from distft.goodput import note
from distft.trackers.prometheus import Prometheus, exposition
from tests.support.fake_run import freeze

LINE = re.compile(r'^distft_(\w+)\{run="((?:[^"\\\n]|\\.)*)"(?:,state="(\w+)")?\} (\S+)$')
ROW = {"split": "train", "seconds": 0.5, "tokens": 100, "loss": 2.0, "grad_norm": 1.5, "mfu": 0.25}


def read(text: str) -> dict[tuple[str, str | None], float]:
    """Returns the values of a text in Prometheus' format by name and state."""
    found = {}
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if line.startswith("#"):
            kind, name = line.split()[1:3]
            assert kind in ("HELP", "TYPE")
            assert lines[i + 1].startswith(f"# TYPE {name} gauge" if kind == "HELP" else f"{name}{{")
            continue
        matched = LINE.match(line)
        assert matched, line
        found[matched[1], matched[3]] = float(matched[4])
    assert text.endswith("\n")
    return found


def test_the_state_of_a_run_is_written(tmp_path: Path):
    run = freeze(tmp_path / "run", steps=50)
    tracker = Prometheus(folder=str(tmp_path / "node"), every_seconds=0)
    tracker.start(run)
    for step in (1, 2):
        tracker.log(ROW | {"step": step, "phases": {"data": 0.05 * step}})
    tracker.log({"split": "eval", "step": 2, "loss": 3.0})
    tracker.log({"split": "warning", "step": 2, "text": "odd"})
    [file] = (tmp_path / "node").iterdir()
    assert file.name == "distft_run.prom"
    values = read(file.read_text())
    expected = {"step": 2, "steps": 50, "loss": 2, "held_out_loss": 3, "grad_norm": 1.5, "mfu": 0.25}
    expected |= {"tokens_per_second": 200, "data_wait_ratio": pytest.approx(0.15)}
    assert {key: values[key, None] for key in expected} == expected
    assert not {("checkpoint_age_seconds", None), ("goodput", None)} & values.keys(), "there is none yet"
    assert values["state", "running"] == 1 and values["state", "failed"] == 0
    for event, about in (("submitted", {}), ("training", {"step": 0}), ("trained", {"step": 0})):
        note(run, event, 1, **about)
    run.checkpoints.mkdir()
    (run.checkpoints / "latest").symlink_to("step-00000002")
    tracker.finish("failed")
    values = read(file.read_text())
    assert 0 <= values["checkpoint_age_seconds", None] < 60 and values["goodput", None] == 0
    assert values["state", "running"] == 0 and values["state", "failed"] == 1


def test_it_is_written_at_its_interval_and_at_the_end(tmp_path: Path):
    run = freeze(tmp_path / "run")
    tracker = Prometheus(every_seconds=1000)
    tracker.start(run)
    tracker.log(ROW | {"step": 1})
    file = run.path / "distft_run.prom"
    assert read(file.read_text())["step", None] == 0
    tracker.finish("completed")
    assert read(file.read_text())["step", None] == 1


@pytest.mark.parametrize("name", ['a"b', "a\\b", "données 1", "a\nb"])
def test_any_name_and_number_is_valid_in_the_format(name: str):
    values = read(exposition(name, {"loss": math.nan, "grad_norm": math.inf, "mfu": None, "step": 3}, "running"))
    assert math.isnan(values["loss", None]) and values["grad_norm", None] == math.inf and ("mfu", None) not in values
