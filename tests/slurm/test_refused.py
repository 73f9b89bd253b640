"""Jobs that SLURM would refuse or never start are refused in seconds, with the wrong key."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from practice_cluster import Cluster

from tests.slurm.jobs import ended, launch, run_of
from tests.support.rows import write_sums
from tests.support.warm import python

REFUSED = {
    "partition": (["launcher.partition=mian"], "launcher.partition=mian: there is no such partition. Try: main"),
    "gpus": (
        ["launcher.gpus_per_node=8", "train.micro_batch_size=1"],
        "launcher.gpus_per_node=8: a node of partition main has 4. Try: 4",
    ),
    "time": (["launcher.partition=short", "launcher.time=10"], "launcher.time=10 is over the limit of partition short"),
    "nodes": (["launcher.nodes=8", "train.micro_batch_size=1"], "launcher.nodes=8: partition main has 4. Try: 4"),
    "flag": (["launcher.flags={reservation: none}"], "sbatch refused the job: Batch job submission failed"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("refused"))


@pytest.fixture(scope="module")
def prepared(cluster: Cluster, folder: Path) -> Path:
    """The folder with its rows prepared: what is measured is the refusal."""
    command = [python(), "-m", "distft.prepare", "model=gpt2", "model.tiny=true", "data.eval=0.2"]
    command += [f"data.train={folder / 'rows.jsonl'}", f"cache_dir={folder / 'cache'}"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_a_job_that_cannot_run_is_refused_in_three_seconds(cluster: Cluster, prepared: Path, name: str) -> None:
    overrides, words = REFUSED[name]
    before = time.monotonic()
    code, said = ended(launch(cluster, prepared, name, *overrides))
    seconds = time.monotonic() - before
    assert code == 2 and words in said and "Traceback" not in said, said
    print(f"{name}: {seconds:.1f} s")
    assert cluster.ask("squeue", "-h", "-n", name) == ""


@pytest.mark.slow
def test_an_unwritable_folder_is_named(cluster: Cluster, prepared: Path) -> None:
    (prepared / "file").write_text("")
    code, said = ended(launch(cluster, prepared, "x", f"runs_dir={prepared / 'file' / 'runs'}"))
    assert code == 2 and f"{prepared / 'file'} cannot be written to" in said and "Traceback" not in said, said


@pytest.mark.slow
def test_a_machine_without_sbatch_is_reported(cluster: Cluster, prepared: Path) -> None:
    code, said = ended(launch(cluster, prepared, "no-sbatch", PATH=os.path.dirname(sys.executable)))
    assert code == 2 and "sinfo is not on PATH" in said and "Try: a login node" in said, said
    assert not run_of(prepared, "no-sbatch").path.exists()


@pytest.mark.slow
@pytest.mark.soak  # asks again for a minute
def test_an_unreachable_controller_is_reported(cluster: Cluster, prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "slurm.conf").write_text("ClusterName=gone\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort=1\n")
    code, said = ended(launch(cluster, prepared, "gone", SLURM_CONF=str(tmp_path / "slurm.conf")))
    assert code == 1 and "Nothing was submitted. Try: " in said and "Traceback" not in said, said
