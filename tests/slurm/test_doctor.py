"""The doctor under a real SLURM: it checks the nodes inside an allocation, and reports what the cluster lacks."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from practice_cluster import Cluster

from distft.config.parts import Launcher
from distft.doctor.finding import Finding
from distft.doctor.nodes import NoAllocation, allocation, check_here, check_nodes, check_shared, judge_reach
from distft.doctor.slurm import check_controller, check_node_names, check_partitions, check_programs
from tests.slurm.jobs import wait

MIB = 2**20

pytestmark = pytest.mark.slow


@pytest.fixture
def here(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster, which SLURM's programs find from this process."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return cluster


@pytest.mark.soak
def test_two_healthy_nodes_pass(here: Cluster, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "distft.doctor", "launcher=slurm", "launcher.nodes=2", "out=found.json"]
    done = subprocess.run(
        [*command, "launcher.processes_per_node=1", "cache_dir=cache"],
        cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = [Finding(**each) for each in json.loads((tmp_path / "found.json").read_text())]
    on_nodes = {each.check for each in found if each.host in ("n1", "n2", "n3", "n4")}
    assert {"python", "torch", "deepspeed", "memory", "runs_dir", "port"} <= on_nodes or not here.isolated
    assert {"controller", "accounting", "partition", "nodes", "clocks", "same install"} <= {
        each.check for each in found
    }
    [reduced] = [each for each in found if each.check == "all-reduce" and "n1, n2" in each.seen]
    assert "2 processes over gloo, interface lo" in reduced.seen
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.json"]
    assert here.ask("squeue", "-h").strip() == ""


def test_partitions_are_listed_and_a_misspelt_one_refused(here: Cluster) -> None:
    wait(lambda: here.ask("squeue", "-h") == "", "the end of earlier jobs")
    found = list(check_partitions(Launcher(nodes=2)))
    assert [each.state for each in found] == ["ok"] * 4
    assert found[0].seen == "main*: 4 idle with gpu:4, limit infinite"
    [wrong] = [each for each in check_partitions(Launcher(nodes=2, partition="mian")) if each.state == "problem"]
    assert "launcher.partition=mian" in wrong.seen and wrong.remedy == "launcher.partition=main"


def test_a_partition_that_is_down_is_a_problem_when_it_is_chosen(here: Cluster) -> None:
    here.ask("scontrol", "update", "partitionname=short", "state=down")
    try:
        [chosen] = [each for each in check_partitions(Launcher(nodes=2, partition="short")) if each.state == "problem"]
        assert "short: " in chosen.seen and "(not up)" in chosen.seen
        assert {each.state for each in check_partitions(Launcher(nodes=2, partition="main"))} == {"ok"}
    finally:
        here.ask("scontrol", "update", "partitionname=short", "state=up")


def test_names_resolved_only_on_nodes_are_a_warning(here: Cluster) -> None:
    if not here.isolated:
        pytest.skip("the nodes have names of their own for root only")
    [found] = check_node_names(Launcher(partition="low"))
    assert found.state == "warning" and found.seen == "n1, n2 of 2 do not resolve from here"


def test_a_controller_that_does_not_answer_is_a_problem(here: Cluster, tmp_path: Path, monkeypatch) -> None:
    conf = (here.dir / "slurm.conf").read_text().replace("SlurmctldPort=", "SlurmctldPort=1 #")
    (tmp_path / "slurm.conf").write_text(conf + "MessageTimeout=2\n")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    [found] = check_controller()
    assert found.state == "problem" and "DOWN" in found.seen


def test_programs_that_are_not_on_path_are_named(here: Cluster, tmp_path: Path, monkeypatch) -> None:
    assert [found.state for found in check_programs()] == ["ok"]
    monkeypatch.setenv("PATH", str(tmp_path))
    [found] = check_programs()
    assert found.state == "problem" and "sbatch, srun, squeue, scontrol, sinfo, scancel" in found.seen


def test_more_nodes_than_available_are_refused(here: Cluster) -> None:
    [wrong] = [each for each in check_partitions(Launcher(nodes=9, partition="low")) if each.state == "problem"]
    assert (wrong.seen, wrong.remedy) == ("launcher.nodes=9: low has 2", "launcher.nodes=2")
    assert {each.state for each in check_partitions(Launcher(nodes="2-9", partition="low"))} == {"ok"}


def test_a_busy_cluster_is_reported_with_the_output_of_srun(here: Cluster, tmp_path: Path, monkeypatch) -> None:
    job = here.ask("sbatch", "--parsable", "-N4", "--exclusive", "-o", f"{tmp_path}/out", "--wrap", "sleep 300").strip()
    monkeypatch.setattr("distft.doctor.nodes.SECONDS_TO_START", 1)
    try:
        [found] = check_nodes(2, [], {"runs_dir": tmp_path})
    finally:
        here.ask("scancel", job)
    assert found.state == "problem" and "no allocation of 2: srun: error: Unable to allocate resources" in found.seen


def test_differences_of_a_node_are_reported_by_node(here: Cluster, tmp_path: Path) -> None:
    """n2 has another disk in the place of the runs, and hears nothing on the port that it names."""
    if not here.isolated:
        pytest.skip("only root's nodes have mounts of their own")
    runs = tmp_path / "runs"
    runs.mkdir()
    here.ask("srun", "-w", "n2", "mount", "-t", "tmpfs", "-o", f"size={4 * MIB}", "tmpfs", str(runs))
    try:
        with allocation(2, ["-w", "n1,n2"]) as given, socket.socket() as deaf:
            assert [each.state for each in check_here(given, 2)] == ["ok"]
            [lost] = check_shared(given, "runs_dir", runs)
            assert lost.state == "problem"
            assert lost.seen.startswith(f"{runs} here is another folder on n2: No such file or directory")
            assert "disk that all nodes mount" in lost.remedy
            heard, _ = given.ask("hear", 30)
            deaf.bind((heard["n2"]["address"], 0))
            places = {"n1": (heard["n1"]["address"], heard["n1"]["port"]), "n2": deaf.getsockname()}
            found = list(judge_reach(heard, given.ask("reach", 30, places=places)[0]))
            assert len(found) == 2, found
            pair, itself = found
            assert pair.seen == f"n1 (lo) cannot reach n2 at 127.0.0.1:{places['n2'][1]} Connection refused"
            assert "getent hosts n2" in pair.remedy and itself.seen.startswith("n2 (lo) cannot reach n2")
            assert given.ask("hear", 30, wrong=1)[1]["n1"].startswith("TypeError")
    finally:
        here.ask("srun", "-w", "n2", "umount", str(runs))
    assert list(runs.iterdir()) == []


def test_a_python_missing_on_the_nodes_is_reported(here: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/only/on/the/login/node/python")
    with pytest.raises(NoAllocation, match="No such file or directory"), allocation(2, []):
        pass
