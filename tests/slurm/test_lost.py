"""Time limits, lost nodes and fewer nodes cost at most the steps since the last checkpoint; a crash loop ends."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
from practice_cluster import Cluster

from distft.launchers.slurm.job import read_job
from distft.run import RunFolder
from tests.slurm.jobs import ended, last_step, launch, losses, run_of, wait, wait_for_steps, why
from tests.support.rows import write_sums

pytestmark = pytest.mark.soak

STEPS = 150
LONGER = 90  # seconds of steps: SLURM ends a job of one minute after at most a minute and a half
SETTINGS = ["strategy=fsdp", "seed=3", "checkpoint.every_steps=10"]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # the bits of a matrix product depend on the number of threads


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("lost"))


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, with all its nodes there again afterwards."""
    if not cluster.isolated:
        pytest.skip("only root's nodes can be powered off")
    yield cluster
    for node in cluster.nodes:
        state = cluster.ask("sinfo", "-h", "-n", node, "-p", "main", "-o", "%T").strip()
        if state.startswith("down"):
            cluster.power_on(node)
            wait(lambda node=node: "idle" in cluster.ask("sinfo", "-h", "-n", node, "-p", "main", "-o", "%T"), node)


def straight(cluster: Cluster, folder: Path, steps: int) -> RunFolder:
    """An uninterrupted run of two local processes."""
    name = f"straight-{steps}"
    settings = [*SETTINGS, f"train.max_steps={steps}", "launcher=local", "launcher.processes_per_node=2"]
    assert ended(launch(cluster, folder, name, *settings, **ONE_THREAD))[0] == 0
    return run_of(folder, name)


def hold(run: RunFolder, other: RunFolder) -> None:
    assert [step for step, _, _ in losses(run)] == list(range(1, len(losses(other)) + 1))
    assert losses(run) == losses(other)


def test_a_run_longer_than_the_time_limit_ends(cluster: Cluster, folder: Path) -> None:
    seconds = median(row["seconds"] for row in straight(cluster, folder, STEPS).read_metrics("train"))
    steps = int(LONGER / seconds)
    limits = ["launcher.partition=short", "launcher.time=1", "launcher.warning_seconds=30", "launcher.nodes=2"]
    process = launch(cluster, folder, "limit", *SETTINGS, *limits, f"train.max_steps={steps}", **ONE_THREAD)
    code, said = ended(process, 900)
    run = run_of(folder, "limit")
    assert code == 0, said + why(run)
    status = run.read_status()
    assert status["attempt"] > 1 and status["timeouts"] == status["attempt"] - 1
    hold(run, straight(cluster, folder, steps))


def test_a_lost_node_costs_the_steps_since_the_last_checkpoint(nodes: Cluster, folder: Path) -> None:
    two = ["launcher.nodes=2", "launcher.exclude=[n1,n2]", f"train.max_steps={STEPS}"]
    run = run_of(folder, "lost")
    process = launch(nodes, folder, "lost", *SETTINGS, *two, **ONE_THREAD)
    wait_for_steps(run, 1, more=15)
    done = last_step(run)
    nodes.power_off("n4")
    wait(lambda: nodes.ask("squeue", "-h", "-j", str(read_job(run)), "-o", "%T").strip() == "PENDING", "queued again")
    nodes.power_on("n4")
    code, said = ended(process, 300)
    assert code == 0, said + why(run)
    assert run.read_status()["attempt"] == 2 and done >= 15
    hold(run, straight(nodes, folder, STEPS))


def test_a_run_continues_with_the_remaining_nodes(nodes: Cluster, folder: Path) -> None:
    left = ["launcher.nodes=1-2", "launcher.exclude=[n1,n2]", f"train.max_steps={STEPS}"]
    run = run_of(folder, "fewer")
    process = launch(nodes, folder, "fewer", *SETTINGS, *left, **ONE_THREAD)
    wait_for_steps(run, 1, more=15)
    assert run.read_plan().nodes == 2
    nodes.power_off("n4")
    code, said = ended(process, 300)
    assert code == 0, said + why(run)
    assert run.read_plan().nodes == 1 and run.read_status()["attempt"] == 2
    other = straight(nodes, folder, STEPS)
    assert [step for step, _, _ in losses(run)] == list(range(1, STEPS + 1))
    for mine, reference in zip(losses(run), losses(other), strict=True):
        assert mine == pytest.approx(reference, rel=2e-5)  # 150 steps on two ways of adding up; 2e-6 for the first


def test_a_job_without_progress_is_not_requeued_forever(cluster: Cluster, folder: Path) -> None:
    run = run_of(folder, "loop")
    process = launch(cluster, folder, "loop", *SETTINGS, "train.max_steps=100000", **ONE_THREAD)
    for attempt in (1, 2, 3):
        wait(
            lambda attempt=attempt: run.status.is_file() and run.read_status().get("begun") == attempt,
            f"start {attempt}",
        )
        cluster.ask("scontrol", "requeue", str(read_job(run)))  # and killed before the first step
    code, said = ended(process, 300)
    assert code == 1, said + why(run)
    assert "3 starts made no checkpoint after step 0, so the run is not restarted" in said
    assert cluster.ask("squeue", "-h", "-j", str(read_job(run)), "-o", "%T").strip() in ("", "COMPLETING")
