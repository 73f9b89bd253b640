"""A throttled node is found before the run, excluded, and the job runs on other nodes."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from practice_cluster import Cluster

from distft.launchers.slurm.job import read_job
from distft.run import read_json
from tests.slurm.jobs import ended, launch, run_of, why
from tests.support.rows import write_sums

pytestmark = pytest.mark.soak
SHARE = 0.05


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("preflight"))


@contextmanager
def throttled(cluster: Cluster, node: str, flight: Path) -> Iterator[None]:
    """Gives a node `SHARE` of a core while it measures, by the kernel's own limit, and a whole core as its processes
    start and end, which would take minutes otherwise; skips where no control group can be made."""
    v1, v2 = Path("/sys/fs/cgroup/cpu/distft-test"), Path("/sys/fs/cgroup/distft-test")
    group = v1 if v1.parent.is_dir() else v2

    def give(share: float) -> None:
        if group == v1:
            (group / "cpu.cfs_quota_us").write_text(str(round(1e5 * share)))
        else:
            (group / "cpu.max").write_text(f"{round(1e5 * share)} 100000")

    def follow() -> None:
        log, figures, share = flight / "logs" / "attempt-1" / "rank-0.log", flight / "figures.json", 1.0
        while not over.wait(0.05):
            measures = log.is_file() and "measuring" in log.read_text() and not figures.is_file()
            if (wanted := SHARE if measures else 1.0) != share:
                give(share := wanted)

    try:
        group.mkdir()
        give(1.0)
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    mark = f"hostname {node};".encode()
    ours = {pid for _, pid in cluster.daemons() if mark in Path(f"/proc/{pid}/cmdline").read_bytes()}
    while more := {pid for _, pid in cluster.daemons() if parent(pid) in ours} - ours:
        ours |= more
    over, thread = threading.Event(), threading.Thread(target=follow)
    thread.start()
    try:
        for pid in ours:
            (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        over.set()
        thread.join()
        for pid in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(pid)
        group.rmdir()


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_a_throttled_node_is_excluded_and_the_job_moves(cluster: Cluster, folder: Path) -> None:
    if os.geteuid() or not cluster.isolated:
        pytest.skip("only root's nodes can be throttled one by one")
    run = run_of(folder, "throttled")
    with throttled(cluster, "n1", run.path / "preflight"):
        process = launch(cluster, folder, "throttled", "launcher.nodes=2", "launcher.preflight=true")
        code, said = ended(process, 500)
    log = (run.logs / "slurm.out").read_text()
    assert code == 0, said + why(run)
    assert run.read_status()["excluded"] == ["n1"] and run.read_status()["attempt"] == 2
    assert "n1: matrix product: " in log and f"job {read_job(run)} is requeued without n1" in log
    assert {rank["host"] for rank in read_json(run.path / "nodes.json")["ranks"]} == {"n2", "n3"}
    last = read_json(run.path / "preflight.json")
    assert last["nodes"] == ["n2", "n3"] and last["outliers"] == [] and last["seconds"] < 60, last


def test_a_job_without_preflight_measures_nothing(cluster: Cluster, folder: Path) -> None:
    code, said = ended(launch(cluster, folder, "plain", "launcher.nodes=1"))
    run = run_of(folder, "plain")
    assert code == 0, said + why(run)
    assert not (run.path / "preflight").exists() and not (run.path / "preflight.json").exists()
