"""Benchmarks of a run's checkpoints: which are due, their rows in metrics.jsonl, and the whole way on this machine."""

import json
import shutil
from pathlib import Path

import pytest

from distft.config import compose, read_config
from distft.launch.__main__ import main
from distft.launch.benchmarks import add_rows, due, words_of
from distft.launch.stages import with_name
from distft.run import RunFolder, write_json
from tests.evaluate.test_benchmarks import write_tasks
from tests.support.rows import write_sums


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with committed checkpoints of steps 2, 4 and 6, of which 4 is the best."""
    run = RunFolder(tmp_path / "run")
    for step in (2, 4, 6):
        write_json(run.checkpoints / f"step-{step:08d}" / "manifest.json", {"step": step})
    (run.checkpoints / "latest").symlink_to("step-00000006")
    (run.checkpoints / "best").symlink_to("step-00000004")
    (run.checkpoints / "step-00000008").mkdir()  # not committed
    run.write_status(state="running", step=8)
    return run


def write_results(run: RunFolder, step: int, value: float, base: float | None = None) -> None:
    content = {"step": step, "benchmarks": {"doubles": {"metrics": {"acc": {"value": value}}}}}
    if base is not None:
        against = {"against": {"doubles/acc": {"theirs": base}}, "against_model": {"name": "run at base"}}
        content |= against
    write_json(run.eval / f"step-{step:08d}" / "metrics.json", content)


def test_what_is_due_follows_the_keys_of_the_run(run: RunFolder, tmp_path: Path) -> None:
    tasks, right = write_tasks(tmp_path, 3), ["model.tiny=true", f"data.train={tmp_path}/rows.jsonl"]
    words = ["eval.benchmarks=[doubles,spoken]", f"eval.benchmarks_path={tasks}", "eval.benchmarks_limit=7"]
    last = compose([*right, *words])
    every = compose(
        [*right, *words, "eval.benchmarks_every_steps=2", "checkpoint.every_steps=2", "checkpoint.keep_every=2"]
    )

    def steps(config, is_done: bool) -> list[int]:
        return [int(folder.name.removeprefix("step-")) for folder in due(run, config, is_done=is_done)]

    assert steps(compose(right), True) == [] and steps(last, False) == []
    assert steps(last, True) == [4]  # what the run exports
    assert steps(last.changed({"export.at": "latest"}), True) == [6]
    assert steps(every, False) == [2, 4, 6]
    write_results(run, 4, 0.5)
    assert steps(every, True) == [2, 4, 6]  # of one task alone
    words = words_of(run, last, "step-00000004", is_last=True)
    assert words[:3] == [f"run={run.path}", "at=step-00000004", "tasks=[doubles,spoken]"]
    assert words[3:] == [f"task_path={tasks}", "limit=7", "against=base"]
    assert steps(every.changed({"eval.benchmarks": ["doubles"]}), True) == [2, 6]


def test_rows_are_added_once_and_while_no_rank_writes(run: RunFolder) -> None:
    write_results(run, 2, 0.25)
    add_rows(run)
    assert not run.metrics.exists()
    run.write_status(state="completed")
    run.metrics.write_text('{"step": 1, "split": "train", "loss": 1.0}\n')
    for _ in range(2):
        add_rows(run)
    write_results(run, 6, 0.75, base=0.5)
    add_rows(run)
    assert list(run.read_metrics("benchmark")) == [
        {"step": 2, "split": "benchmark", "doubles/acc": 0.25},
        {"step": 0, "split": "benchmark", "doubles/acc": 0.5},
        {"step": 6, "split": "benchmark", "doubles/acc": 0.75},
    ]
    run.metrics.write_text('{"step": 1, "split": "train", "loss": 1.0}\n')  # a resumed attempt dropped them
    add_rows(run)
    assert [row["step"] for row in run.read_metrics("benchmark")] == [0, 2, 6]


@pytest.mark.soak
def test_a_launch_measures_the_benchmarks_after_training(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_sums(tmp_path)
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    write_tasks(tasks, 4)
    words = ["model.tiny=true", f"data.train={tmp_path / 'rows.jsonl'}", "data.eval=0.1", "train.max_steps=4"]
    words += ["train.global_batch_size=8", "train.micro_batch_size=4", "checkpoint.every_steps=2", "export=false"]
    words += ["checkpoint.keep_every=2", "eval.benchmarks=[doubles]", f"eval.benchmarks_path={tasks}"]
    words += ["eval.benchmarks_every_steps=2", f"runs_dir={tmp_path}", f"cache_dir={tmp_path}/cache", "name=run"]
    assert main(words) == 0
    run = RunFolder(tmp_path / "run")
    assert [row["step"] for row in run.read_metrics("benchmark")] == [0, 2, 4]
    assert "doubles/acc" in (run.path / "report.html").read_text()
    shutil.rmtree(run.eval)
    (tasks / "doubles.yaml").write_text("task: doubles\ndataset_path: nowhere\n")
    assert main(words) == 0, "a benchmark that fails is no failure of the run"
    assert "benchmarks of step-00000002 failed" in capfd.readouterr().err
    assert json.loads(run.status.read_text())["state"] == "completed"
    assert with_name(read_config(run))[0] == run
