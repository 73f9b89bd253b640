"""The practice cluster is a SLURM: it runs jobs on several nodes, gives out GPUs, and loses a node."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from practice_cluster import CannotStart, Cluster

pytestmark = pytest.mark.slow


def wait(until: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_job_has_its_nodes_and_its_gpus(cluster: Cluster) -> None:
    say = 'echo "$(hostname) $SLURM_PROCID $CUDA_VISIBLE_DEVICES"'
    said = cluster.ask("srun", "-N2", "--ntasks-per-node=2", "--gpus-per-node=2", "bash", "-c", say)
    rows = sorted(line.split() for line in said.splitlines())
    assert [row[2] for row in rows] == ["0,1"] * 4
    assert sorted(int(row[1]) for row in rows) == [0, 1, 2, 3]
    assert len({row[0] for row in rows}) == (2 if cluster.isolated else 1)


def test_more_gpus_than_a_node_has_are_refused(cluster: Cluster) -> None:
    with pytest.raises(RuntimeError, match="Requested node configuration is not available"):
        cluster.ask("srun", "-N1", "--gpus-per-node=5", "true")


def test_a_job_on_a_lost_node_is_queued_again(cluster: Cluster, tmp_path: Path) -> None:
    if not cluster.isolated:
        pytest.skip("only root's nodes can be powered off")
    submit = ["sbatch", "--parsable", "--requeue", "-w", "n4", "-o", str(tmp_path / "out"), "--wrap", "sleep 300"]
    job = cluster.ask(*submit).strip()

    def state() -> str:
        return cluster.ask("squeue", "-h", "-j", job, "-o", "%T").strip()

    wait(lambda: state() == "RUNNING")
    cluster.power_off("n4")
    wait(lambda: state() == "PENDING")
    cluster.power_on("n4")
    wait(lambda: cluster.ask("sinfo", "-h", "-n", "n4", "-p", "main", "-o", "%T").strip() != "down")
    cluster.ask("scancel", job)
    wait(lambda: not state())


def test_a_second_cluster_in_the_same_folder_is_refused(cluster: Cluster) -> None:
    with pytest.raises(CannotStart, match="runs in .* already"):
        Cluster(cluster.dir).start()


def test_a_machine_without_slurm_gets_the_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("practice_cluster._path", lambda: str(tmp_path))
    with pytest.raises(CannotStart, match="munged, slurmctld, slurmd, sinfo not found. Try: apt-get install"):
        Cluster(tmp_path / "cluster").start()
