"""Evaluation, generation and benchmarks as jobs of their own, with their results in the run folder."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from practice_cluster import Cluster

from distft.run import RunFolder, read_json
from tests.evaluate.test_benchmarks import write_tasks
from tests.slurm.jobs import ended, launch, run_of, wait, why
from tests.support.answered import make_run, read_lines, write_lines
from tests.support.rows import write_sums
from tests.support.warm import python

pytestmark = pytest.mark.slow


def run_command(cluster: Cluster, *words: str) -> tuple[int, str, str]:
    """Returns the exit code, the output and the messages of a distft command on the login node."""
    done = subprocess.run(
        [python(), "-m", *words],
        env=os.environ | cluster.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_evaluate_and_generate_run_as_jobs(cluster: Cluster, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    prompts = write_lines(tmp_path / "prompts.jsonl", [{"prompt": "3 and 3 is"}, {"prompt": "1 and 2 is"}])
    words = ["distft.generate", f"run={run.path}", f"prompts={prompts}", f"out={tmp_path / 'answers.jsonl'}"]
    words += ["max_new_tokens=3", "launcher=slurm", "launcher.wait=false", "launcher.time=10"]
    words += ["launcher.warning_seconds=900"]  # of a run; a command saves nothing at a warning
    code, said, messages = run_command(cluster, *words)
    assert code == 0 and "job " in said, messages
    job = RunFolder(next((run.path / "jobs").iterdir()))

    words = ["distft.evaluate", f"run={run.path}", "launcher=slurm", "launcher.processes_per_node=2", "strategy=fsdp"]
    code, said, messages = run_command(cluster, *words, "--json")
    assert code == 0, messages
    found = json.loads(said)
    assert found == read_json(run.eval / "latest" / "metrics.json") and found["settings"]["processes"] == 2
    assert found["rows"] == run.read_plan().eval_rows and "running" in messages

    wait(lambda: job.read_status()["exit_code"] is not None, "the end of a job that nobody follows")
    assert job.read_status()["state"] == "completed", (job.logs / "slurm.out").read_text()
    assert [each["prompt"] for each in read_lines(tmp_path / "answers.jsonl")] == ["3 and 3 is", "1 and 2 is"]
    assert not (job.path / "report.html").exists() and not job.final.exists()


@pytest.mark.soak
def test_benchmarks_are_jobs_next_to_the_training(cluster: Cluster, tmp_path: Path) -> None:
    write_sums(tmp_path)
    (tmp_path / "tasks").mkdir()
    tasks = write_tasks(tmp_path / "tasks", 4)
    words = ["eval.benchmarks=[doubles]", f"eval.benchmarks_path={tasks}", "eval.benchmarks_every_steps=2"]
    words += ["checkpoint.every_steps=2", "checkpoint.keep_every=2", "train.max_steps=4"]
    code, said = ended(launch(cluster, tmp_path, "measured", *words), 500)
    run = run_of(tmp_path, "measured")
    assert code == 0, said + why(run)
    jobs = [RunFolder(run.path / "jobs" / f"benchmarks-step-{step:08d}") for step in (2, 4)]
    wait(lambda: all(job.status.is_file() and job.read_status()["exit_code"] is not None for job in jobs), "both jobs")
    assert [job.read_status()["state"] for job in jobs] == ["completed"] * 2, "".join(map(why, jobs))
    assert sorted(row["step"] for row in run.read_metrics("benchmark")) == [0, 2, 4]  # in the order of their ends
    assert len({job.job.read_text() for job in (*jobs, run)}) == 3
