"""A job that could never run is refused in the words of the keys that are wrong, each with the nearest that can."""

from pathlib import Path
from typing import Any

import pytest

from distft.launchers.slurm.commands import Partition
from distft.launchers.slurm.launcher import look_up, partition_of, reasons
from tests.support.stubs import only_path, stub

GPU = Partition("gpu", True, 2 * 86400, 4, 64, 8, True)
CPU = Partition("cpu", False, None, 10, 32, 0, True)
FITS: dict[str, Any] = {"nodes": 2, "processes": 4, "gpus": 4, "cpus": 8, "time": "1-00:00:00"}


def wrong(partition: Partition = GPU, **changes: Any) -> list[str]:
    return list(reasons(partition, **(FITS | changes)))


def test_a_job_that_fits_is_not_refused():
    assert wrong() == []
    assert wrong(CPU, gpus=None, cpus=None, time=None) == []
    assert wrong(nodes="2-400", gpus="a100:8", cpus=16, time=2 * 24 * 60) == [], "a range asks for its fewest"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nodes": 5}, "launcher.nodes=5: partition gpu has 4. Try: 4"),
        ({"nodes": "5-8"}, "launcher.nodes=5-8: partition gpu has 4. Try: 4"),
        ({"gpus": 9}, "launcher.gpus_per_node=9: a node of partition gpu has 8. Try: 8"),
        ({"gpus": "a100:9"}, "launcher.gpus_per_node=a100:9: a node of partition gpu has 8. Try: 8"),
        (
            {"gpus": 2},
            "launcher.processes_per_node=4: each needs one GPU, and launcher.gpus_per_node=2. "
            "Try: launcher.processes_per_node=2",
        ),
        (
            {"cpus": 17},
            "launcher.cpus_per_process=17: 4 processes on a node of partition gpu, which has 64 cores. Try: 16",
        ),
        (
            {"cpus": 1, "processes": 65, "gpus": None},
            "launcher.cpus_per_process=1: 65 processes on a node of partition gpu, which has 64 cores. "
            "Try: fewer processes",
        ),
        (
            {"time": "2-00:00:01"},
            "launcher.time=2-00:00:01 is over the limit of partition gpu. Try: 2880 (minutes), or another partition",
        ),
        (
            {"time": 2881},
            "launcher.time=2881 is over the limit of partition gpu. Try: 2880 (minutes), or another partition",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_its_value_and_the_nearest(changes: dict[str, Any], said: str):
    assert wrong(**changes) == [said]


def test_a_partition_without_gpus_and_one_that_is_down_are_told():
    assert wrong(CPU) == ["launcher.gpus_per_node=4: a node of partition cpu has 0. Try: null"]
    down = Partition("old", False, None, 4, 64, 8, False)
    assert wrong(down) == ["launcher.partition=old is down: it takes no jobs now. Try: another partition"]


def test_all_reasons_come_at_once():
    assert len(wrong(nodes=9, gpus=9, cpus=99, time="UNLIMITED")) == 4


def test_a_partition_is_found_by_name_or_as_the_default():
    assert partition_of(None, [CPU, GPU]) == GPU
    assert partition_of("cpu", [CPU, GPU]) == CPU
    with pytest.raises(ValueError, match=r"launcher.partition=gpuu: there is no such partition. Try: gpu$"):
        partition_of("gpuu", [CPU, GPU])
    with pytest.raises(ValueError, match=r"launcher.partition=interactive: .* Try: cpu, gpu$"):
        partition_of("interactive", [CPU, GPU])
    with pytest.raises(ValueError, match=r"launcher.partition=null, and the cluster has no default. Try: cpu$"):
        partition_of(None, [CPU])


def test_a_cluster_that_gives_no_answer_is_a_wrong_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    only_path(tmp_path / "programs", monkeypatch)
    stub(tmp_path / "programs", "sinfo", "echo 'sinfo: fatal: Could not establish a configuration source' >&2; exit 1")
    with pytest.raises(ValueError) as caught:
        look_up(None)
    assert str(caught.value) == (
        "launcher=slurm: sinfo: fatal: Could not establish a configuration source. "
        "Try: a login node of the cluster, or launcher=local"
    )
