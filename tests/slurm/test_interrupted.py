"""Whatever SLURM does to a job, the run ends like an uninterrupted one, with each step once."""

import time
from pathlib import Path

import pytest
from practice_cluster import Cluster

from distft.launchers.slurm.job import read_job
from distft.run import RunFolder
from tests.slurm.jobs import ended, last_step, launch, losses, run_of, wait, wait_for_steps, why
from tests.support.rows import write_sums

STEPS = 120
SETTINGS = [f"train.max_steps={STEPS}", "strategy=fsdp", "checkpoint.every_steps=50", "seed=3"]
LOCAL = ["launcher=local", "launcher.processes_per_node=2"]
IN_A_JOB = [*SETTINGS, "tracker=wandb", "tracker.mode=offline", "launcher.partition=low"]
IN_A_JOB += ["checkpoint.resume=never"]  # counts once, not at each start
ON_TWO_NODES = [*IN_A_JOB, "launcher.nodes=2"]
SHORT_STEPS = 40
SECONDS_DOWN = 12.0  # longer than a program of SLURM waits for the controller


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("interrupted"))


def preempt(cluster: Cluster) -> None:
    """Submits a job that takes both nodes of the partition `low` for a second."""
    cluster.ask("sbatch", "-p", "high", "-w", "n1,n2", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")


def hold(run: RunFolder, other: RunFolder, steps: int) -> None:
    """Fails unless both runs have made the same steps, each once, with the same numbers."""
    assert [step for step, _, _ in losses(run)] == list(range(1, steps + 1))
    assert losses(run) == losses(other)


@pytest.mark.slow
def test_a_preempted_job_continues(cluster: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the bits of a matrix product depend on the number of threads
    steps = f"train.max_steps={SHORT_STEPS}"
    straight = launch(cluster, folder, "short-straight", *SETTINGS, steps, *LOCAL)
    run = run_of(folder, "short")
    process = launch(cluster, folder, "short", *IN_A_JOB, "launcher.processes_per_node=2", steps)
    wait_for_steps(run, 1)
    preempt(cluster)
    code, said = ended(process)
    assert code == 0, said + why(run)
    assert ended(straight)[0] == 0
    hold(run, run_of(folder, "short-straight"), SHORT_STEPS)
    assert run.read_status()["attempt"] == 2


@pytest.mark.soak
def test_preempted_requeued_cancelled_and_submitted_again(
    cluster: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the bits of a matrix product depend on the number of threads
    straight = launch(cluster, folder, "straight", *SETTINGS, *LOCAL)
    run = run_of(folder, "run")
    process = launch(cluster, folder, "run", *ON_TWO_NODES)
    wait_for_steps(run, 1)
    wait(run_of(folder, "straight").plan.is_file, "the rows of both runs are prepared")
    rows = folder / "rows.jsonl"
    rows.write_text(rows.read_text().replace("and", "plus"))
    preempt(cluster)
    wait_for_steps(run, 2)
    cluster.ask("scontrol", "requeue", str(read_job(run)))
    wait_for_steps(run, 3)
    cluster.ask("scancel", str(read_job(run)))
    code, said = ended(process)
    assert code == 75 and "saved and stopped by you, with scancel" in said, said + why(run)
    assert 0 < last_step(run) < STEPS
    by_hand = cluster.ask("sbatch", "--parsable", str(run.path / "train.sbatch")).strip()
    wait(lambda: run.read_status().get("begun") == 4, "a job submitted by hand")
    rows.unlink()
    cluster.stop_controller()
    process = launch(cluster, folder, "run", *ON_TWO_NODES)  # finds that job and follows it, when SLURM answers
    time.sleep(SECONDS_DOWN)
    assert process.poll() is None and read_job(run) == by_hand
    cluster.start_controller()
    code, said = ended(process)
    assert code == 0 and "SLURM does not answer, retrying" in said, said + why(run)
    assert read_job(run) == by_hand, "no other job was submitted"
    assert ended(straight)[0] == 0
    hold(run, run_of(folder, "straight"), STEPS)
    assert run.read_status()["attempt"] in (4, 5), "srun may have asked while nobody answered"
    [record] = (run.path / "wandb").glob("offline-run-*")
    assert record.name.endswith((run.path / "wandb" / "id").read_text())
