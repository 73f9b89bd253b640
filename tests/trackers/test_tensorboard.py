"""TensorBoard reads back each logged step once, without torch."""

import json
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distft.run import RunFolder
from distft.trackers.contract import Results
from distft.trackers.tensorboard import TensorBoard


def attempt(run: RunFolder, steps: int) -> None:
    tracker = TensorBoard()
    tracker.start(run)
    for step in range(1, steps + 1):
        tracker.log({"step": step, "split": "train", "loss": 1 / step})
    tracker.finish("completed")


def test_every_step_is_logged_once_over_two_attempts(tmp_path):
    run = RunFolder(tmp_path)
    attempt(run, 2)
    attempt(run, 4)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert [step for step, _ in points] == [1, 2, 3, 4]
    assert points[3][1] == 0.25


def test_samples_and_evaluations_are_tables_of_text(tmp_path):
    tracker = TensorBoard()
    tracker.start(RunFolder(tmp_path))
    tracker.log({"step": 7, "split": "eval", "loss": 1.0})
    evaluated = tmp_path / "eval" / "best" / "metrics.json"
    evaluated.parent.mkdir(parents=True)
    evaluated.write_text(json.dumps({"metrics": {"loss": {"value": 1.5, "stderr": 0.25, "n": 9}}, "benchmarks": None}))
    samples = [{"prompt": "2|2\nis", "expected": "4", "before": "a", "after": "4", "verbatim": 0.25, "copied": None}]
    tracker.results(Results(samples, [evaluated]))
    tracker.finish("completed")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    [event] = events.Tensors("samples/text_summary")
    assert event.step == 7
    lines = event.tensor_proto.string_val[0].decode().splitlines()
    assert lines[0] == "| prompt | expected | before | after | verbatim | copied |"
    assert lines[2:] == ["| 2\\|2 is | 4 | a | 4 | 0.25 |  |"]
    [event] = events.Tensors("evaluation/text_summary")
    assert event.tensor_proto.string_val[0].decode().splitlines()[2] == "| best | loss | 1.5 | 0.25 | 9 |"
    assert events.SummaryMetadata("samples/text_summary").plugin_data.plugin_name == "text"


@pytest.mark.slow
def test_neither_torch_nor_tensorflow_is_loaded(tmp_path):
    program = """
import sys
from pathlib import Path
from distft.run import RunFolder
from distft.trackers.contract import Results
from distft.trackers.tensorboard import TensorBoard
tracker = TensorBoard()
tracker.start(RunFolder(Path(sys.argv[1])))
tracker.log({"step": 1, "split": "train", "loss": 1.0})
tracker.finish("completed")
print([name for name in ("torch", "tensorflow") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n" and done.stderr == ""
