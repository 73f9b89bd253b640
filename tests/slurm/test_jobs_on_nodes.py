"""Jobs on several nodes train like one machine, also submitted by hand, and leak no secret."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from practice_cluster import Cluster

from distft.launchers.slurm.job import read_job
from distft.run import RunFolder, read_json
from tests.slurm.jobs import ended, launch, losses, run_of, wait, why
from tests.support.rows import write_sums
from tests.test_secrets import ALL, SAID, VARIABLES

pytestmark = pytest.mark.slow

TWENTY = VARIABLES | {f"TOKEN_{name.upper().replace(' ', '_')}": value for name, value in SAID.items()}
TWO_BY_TWO = ["launcher.nodes=2", "launcher.processes_per_node=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("on nodes (1)"))


@pytest.fixture(scope="module")
def one(cluster: Cluster, folder: Path) -> RunFolder:
    """The run of one process on this machine, without SLURM."""
    code, said = ended(launch(cluster, folder, "one", "launcher=local", "launcher.processes_per_node=1"))
    assert code == 0, said
    return run_of(folder, "one")


@pytest.fixture(scope="module")
def fsdp(cluster: Cluster, folder: Path, one: RunFolder) -> tuple[RunFolder, str]:
    """The run of 2 x 2 processes under fsdp, with secrets in the launching environment, and what was said."""
    code, said = ended(launch(cluster, folder, "fsdp", "strategy=fsdp", "export=true", *TWO_BY_TWO, **TWENTY))
    assert code == 0, said + why(run_of(folder, "fsdp"))
    return run_of(folder, "fsdp"), said


def hold(run: RunFolder, other: RunFolder) -> None:
    for mine, reference in zip(losses(run), losses(other), strict=True):
        assert mine == pytest.approx(reference, rel=5e-6)


def test_two_nodes_of_two_train_like_one_process_under_fsdp(fsdp: tuple[RunFolder, str], one: RunFolder) -> None:
    run, said = fsdp
    hold(run, one)
    assert run.read_plan().world == 4 and run.read_status()["exit_code"] == 0
    hosts = {rank["host"] for rank in read_json(run.path / "nodes.json")["ranks"]}
    assert len(hosts) == 2
    assert re.search(r"job \d+: running", said)


def modules(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Returns the overrides that load a module of a folder of this test's, and what the launching shell needs."""
    if not Path("/etc/profile.d/lmod.sh").is_file():
        assert "lmod" not in os.environ.get("DISTFT_REQUIRE", "").split(","), "lmod is required here and not installed"
        return [], {}
    (folder / "modules" / "fabric").mkdir(parents=True)
    (folder / "modules" / "fabric" / "1.lua").write_text('setenv("NCCL_DEBUG", "WARN")\n')
    overrides = ["launcher.environment=module", "launcher.modules=[fabric/1]", "launcher.fabric=ethernet"]
    return overrides, {"MODULEPATH": str(folder / "modules"), "NCCL_SOCKET_NTHREADS": "2"}


def test_two_nodes_of_two_train_like_one_process_under_zero2(cluster: Cluster, folder: Path, one: RunFolder) -> None:
    """With modules in shells that are no login shells, and a network profile below what the user has set."""
    overrides, variables = modules(folder)
    command = ["strategy=zero2", "launcher.wait=false", *TWO_BY_TWO, *overrides]
    code, said = ended(launch(cluster, folder, "zero2", *command, **variables))
    run = run_of(folder, "zero2")
    assert code == 0 and f"is job {read_job(run)}" in said, said
    wait(lambda: run.read_status()["exit_code"] is not None, "the end of a job that nobody follows")
    assert run.read_status()["state"] == "completed", why(run)
    assert (run.path / "report.html").is_file()
    hold(run, one)
    if overrides:
        nodes = read_json(run.path / "nodes.json")
        expected = {"NCCL_DEBUG": "WARN", "NCCL_IB_DISABLE": "1", "NCCL_SOCKET_NTHREADS": "2"}
        assert {name: nodes["variables"].get(name) for name in expected} == expected
        assert not any(expected.keys() & rank["variables"].keys() for rank in nodes["ranks"])


def test_the_job_exports_and_reports_itself(fsdp: tuple[RunFolder, str]) -> None:
    run, _ = fsdp
    assert (run.final / "model.safetensors").is_file() and (run.path / "report.html").is_file()


def test_the_run_folder_script_requests_what_submitit_does(fsdp: tuple[RunFolder, str]) -> None:
    run, _ = fsdp
    [submitted] = (run.logs / "submitit").glob("*_submission.sh")
    own = options(run.path / "train.sbatch")
    assert {"nodes": "2", "gpus-per-node": "2"}.items() <= own.items()
    others = options(submitted)
    assert {key: value for key, value in others.items() if key != "output"} == {
        key: value for key, value in own.items() if key != "output"
    }


def test_a_finished_job_prints_its_result_again(cluster: Cluster, folder: Path, fsdp: tuple[RunFolder, str]) -> None:
    run, _ = fsdp
    before = run.read_status()
    code, said = ended(launch(cluster, folder, "fsdp", "strategy=fsdp", "export=true", *TWO_BY_TWO))
    assert code == 0 and "completed" in said
    assert run.read_status() == before


def test_no_secret_reaches_the_job(cluster: Cluster, fsdp: tuple[RunFolder, str]) -> None:
    run, said = fsdp
    job = str(read_job(run))
    shown = cluster.ask("scontrol", "show", "job", job) + cluster.ask("scontrol", "write", "batch_script", job, "-")
    assert len(set(ALL)) == 20 and not [secret for secret in ALL if secret in said + shown]
    for file in run.path.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert not [secret for secret in ALL if secret.encode() in content], file


def test_a_step_that_differs_from_the_plan_is_refused(cluster: Cluster, fsdp: tuple[RunFolder, str]) -> None:
    run, _ = fsdp
    command = ["srun", "-N1", "-n2", sys.executable, "-m", "distft.launchers.slurm.node", str(run.path)]
    with pytest.raises(RuntimeError):
        cluster.ask(*command)
    assert "srun started 2 tasks on 1 nodes, the plan is for 2 nodes" in str(run.read_status()["error"])


def options(script: Path) -> dict[str, str]:
    """Returns sbatch's options in a script."""
    found = re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script.read_text(), re.MULTILINE)
    return {
        name: subprocess.run(["bash", "-c", f"printf %s {value}"], capture_output=True, text=True, check=True).stdout
        for name, value in found
    }
