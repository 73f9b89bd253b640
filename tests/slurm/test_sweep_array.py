"""A sweep under SLURM is one job array, continues without its command, and is followed again by the same command."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from practice_cluster import Cluster

from distft.launchers.slurm.job import read_job
from distft.run import RunFolder
from tests.slurm.jobs import ended, wait
from tests.support.rows import write_sums
from tests.support.warm import python

pytestmark = pytest.mark.slow

GRID = ["optimizer.foreach=null,true"]  # torch refuses foreach with fused
BAD = "001-optimizer.foreach_True"


def sweep(cluster: Cluster, folder: Path, *overrides: str) -> subprocess.Popen[str]:
    settings = ["model=gpt2", "model.tiny=true", "data.eval=0.2", f"data.train={folder / 'rows.jsonl'}", "name=grid"]
    settings += ["train.epochs=null", "train.max_steps=2", "train.global_batch_size=4", "train.micro_batch_size=4"]
    settings += [f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}", "launcher=slurm", "export=false"]
    settings += ["optimizer.fused=true"]
    return subprocess.Popen(
        [python(), "-m", "distft.launch", "-m", *settings, *GRID, "launcher.jobs_at_once=1", *overrides],
        env=os.environ | cluster.environment | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def jobs_of(folder: Path) -> dict[str, str | None]:
    """Returns the SLURM job of every run of the sweep."""
    return {path.parent.name: read_job(RunFolder(path.parent)) for path in sorted(folder.glob("runs/grid/*/job.json"))}


def states(folder: Path) -> dict[str, str]:
    status = json.loads((folder / "runs" / "grid" / "sweep_status.json").read_text())
    return {job["run"]: job["state"] for job in status["jobs"]}


def test_a_sweep_is_one_array_and_isolates_failures(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = write_sums(tmp_path_factory.mktemp("array"))
    process = sweep(cluster, folder)
    wait(lambda: len([job for job in jobs_of(folder).values() if job]) == 2, "the ids of both jobs")
    jobs = jobs_of(folder)
    assert len({str(job).partition("_")[0] for job in jobs.values()}) == 1
    assert [str(job).partition("_")[2] for job in jobs.values()] == ["0", "1"]
    process.send_signal(signal.SIGINT)
    code, said = ended(process)
    assert code == 75 and "continue without this command" in said, said
    code, said = ended(sweep(cluster, folder), 300)
    assert code == 1 and jobs_of(folder) == jobs, said
    assert states(folder) == {name: "failed" if name == BAD else "completed" for name in jobs}
    assert f"{BAD} failed: RuntimeError: `fused` and" in said
    page = (folder / "runs" / "grid" / "report.html").read_text()
    assert BAD in page and (folder / "runs" / "grid" / "sweep.csv").is_file()
    code, said = ended(sweep(cluster, folder, "sweep.only_failed=true"))
    again = jobs_of(folder)
    assert code == 1 and {name for name in jobs if again[name] != jobs[name]} == {BAD}, said
