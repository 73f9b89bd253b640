"""The run's own script and options are submitted; errors of sbatch reach the user.

A job that could never run is refused with the wrong keys and suggestions.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distft.config.errors import ConfigError, Unavailable
from distft.launch.stages import find
from distft.launchers.local import Local, LocalConfig
from distft.launchers.slurm import commands
from distft.launchers.slurm.commands import Partition
from distft.launchers.slurm.launcher import Slurm, SlurmConfig, look_up, partition_of, reasons, script_of
from distft.run import RunFolder, read_json
from tests.support.slurm_run import freeze
from tests.support.stubs import calls, only_path, stub, stub_recorded

OPTIONS = {"nodes": "2-4", "time": "12:00:00", "memory": "20G", "exclude": ["n1", "n2"], "constraint": "a&b"}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster of one partition with GPUs that takes every job."""
    folder = tmp_path / "programs"
    only_path(folder, monkeypatch)
    stub(folder, "sinfo", 'case "$*" in *%P) echo "main*";; *) echo "main|infinite|gpu:4|8|4|up|idle";; esac')
    stub(folder, "sbatch", f'cp "${{@: -1}}" {folder}/submitted; env > {folder}/env; echo "Submitted batch job 12"')
    stub(folder, "srun", "")
    return folder


def options_in(script: Path) -> dict[str, str | None]:
    lines = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH ")]
    words = [shlex.split(line.removeprefix("#SBATCH "))[0].removeprefix("--") for line in lines]
    return {word.partition("=")[0]: word.partition("=")[2] or None for word in words}


def test_the_script_requests_what_was_submitted(tmp_path: Path, programs: Path):
    run = freeze(tmp_path / "a b", "my run (1) 50%", "launcher.nodes=2-4")
    flags = {"exclusive": True, "reservation": "my course"}
    launcher = Slurm(SlurmConfig(**OPTIONS, flags=flags, processes_per_node=2))  # pyright: ignore[reportArgumentType]
    [handle] = launcher.submit([run.path])
    assert handle.name == "job 12" and read_json(run.job)["job"] == "12"
    own, submitted = options_in(script_of(run)), options_in(programs / "submitted")
    assert own.pop("output") == str(run.logs / "slurm.out").replace("%", "%%")
    assert "array" not in submitted
    for name in ("output", "error"):
        submitted.pop(name, None)
    assert own == submitted
    assert own["nodes"] == "2-4" and own["gpus-per-node"] == "2" and own["time"] == "12:00:00"
    assert own["exclude"] == "n1,n2" and own["reservation"] == "my course" and own["job-name"] == run.path.name
    assert own["signal"] == "USR1@120" and own["exclusive"] is None and "requeue" in own


@pytest.mark.slow
def test_submitit_starts_the_run_script_and_pickles_only_a_name(tmp_path: Path, programs: Path):
    run = freeze(tmp_path / "a b", "run")
    Slurm(SlurmConfig()).submit([run.path])
    [pickle] = (run.logs / "submitit").glob("*.pkl")
    assert b"run_script" in pickle.read_bytes() and pickle.stat().st_size < 1000
    script_of(run).write_text('echo "$1"; echo to stderr >&2\n')
    [command] = [line for line in (programs / "submitted").read_text().splitlines() if "submitit" in line][-1:]
    module = [sys.executable, "-u", "-m", "submitit.core._submit", str(run.logs / "submitit")]
    assert " ".join(map(shlex.quote, module)) in command
    given = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "n1"}
    done = subprocess.run(module, env=os.environ | given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (run.logs / "slurm.out").read_text().splitlines()[-2:] == [str(run.path), "to stderr"]


@pytest.mark.slow
def test_several_runs_are_one_array_with_a_task_each(tmp_path: Path, programs: Path):
    runs = [freeze(tmp_path / name, name) for name in ("a", "b", "c")]
    handles = Slurm(SlurmConfig(jobs_at_once=2)).submit([run.path for run in runs])
    assert [handle.job for handle in handles] == ["12_0", "12_1", "12_2"]
    assert options_in(programs / "submitted")["array"] == "0-2%2"
    assert len(calls(programs, "sbatch")) == 1


def test_a_refusal_of_sbatch_is_quoted(tmp_path: Path, programs: Path):
    run = freeze(tmp_path / "x", "run")
    said = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified"
    stub(programs, "sbatch", f"echo '{said}' >&2; exit 1")
    with pytest.raises(ValueError) as caught:
        Slurm(SlurmConfig()).submit([run.path])
    assert str(caught.value) == f"launcher=slurm: sbatch refused the job: {said.removeprefix('sbatch: error: ')}"


def test_a_job_submitted_in_a_job_inherits_nothing(tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SBATCH_PARTITION", "other")
    Slurm(SlurmConfig()).submit([freeze(tmp_path / "x", "run").path])
    assert not re.search(r"^(SLURM_JOB_ID|SBATCH_PARTITION)=", (programs / "env").read_text(), re.M)
    assert os.environ["SLURM_JOB_ID"] == "7"


def test_every_reason_against_a_job_comes_at_once(programs: Path):
    with pytest.raises(ValueError) as caught:
        Slurm(SlurmConfig(nodes=9, gpus_per_node=9, cpus_per_process=99))
    assert [line.strip().partition("=")[0] for line in str(caught.value).splitlines()] == [
        "launcher.nodes", "launcher.gpus_per_node", "launcher.cpus_per_process",
    ]  # fmt: skip
    assert not calls(programs, "sbatch")


def test_gpus_are_requested_if_available_and_0_requests_none(programs: Path):
    assert Slurm(SlurmConfig(processes_per_node=3)).options["gpus-per-node"] == "3"
    assert "gpus-per-node" not in Slurm(SlurmConfig(processes_per_node=3, gpus_per_node=0)).options
    stub(programs, "sinfo", 'case "$*" in *%P) echo "cpu*";; *) echo "cpu|infinite|(null)|8|4|up|idle";; esac')
    assert "gpus-per-node" not in Slurm(SlurmConfig(processes_per_node=3)).options


def test_a_run_is_found_while_its_job_is_alive(tmp_path: Path, programs: Path):
    launcher, run = Slurm(SlurmConfig()), RunFolder(tmp_path / "run")
    assert launcher.find(run.path) is None
    run.path.mkdir()
    run.job.write_text(json.dumps({"job": "7_1"}))
    for recorded, found in (("pending", True), ("completing", True), ("cancelled", False), ("failed", False)):
        stub_recorded(programs, "scontrol", f"{recorded}.txt")
        handle = launcher.find(run.path)
        assert (handle is not None) is found, recorded
        assert handle is None or handle.job == "7_1"


SILENT = "echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1"


def test_no_answer_is_not_taken_for_no_job(tmp_path: Path, programs: Path):
    """Of a launch on the cluster, and of one on this machine, which would start a second time what runs."""
    launcher, run = Slurm(SlurmConfig()), freeze(tmp_path / "x", "run")
    run.job.write_text(json.dumps({"job": "7"}))
    stub(programs, "scontrol", SILENT)
    for other in (launcher, Local(LocalConfig())):
        with pytest.raises(
            Unavailable, match=r"job 7 may run it, and SLURM does not answer: .*Nothing was submitted. Try"
        ):
            find(other, run)
    stub_recorded(programs, "scontrol", "running.txt")
    with pytest.raises(ConfigError, match=r"job 7 of SLURM owns .*Try: launcher=slurm, which follows it, or scancel 7"):
        find(Local(LocalConfig()), run)
    stub_recorded(programs, "scontrol", "cancelled.txt")
    assert find(Local(LocalConfig()), run) is None
    stub(programs, "sinfo", SILENT)
    with pytest.raises(
        Unavailable, match=r"launcher=slurm: sinfo: .*Nothing was submitted. Try: the same command later"
    ):
        Slurm(SlurmConfig())


def test_an_unanswered_submission_is_searched_before_a_new_one(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
):
    run = freeze(tmp_path / "x", "run")
    scripts = run.logs / "submitit"
    stub(
        programs,
        "sbatch",
        "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv' >&2; exit 1",
    )
    with pytest.raises(Unavailable, match="The job may have been queued"):
        Slurm(SlurmConfig()).submit([run.path])
    stub(programs, "squeue", SILENT)
    with pytest.raises(Unavailable, match="a job may run it, and SLURM does not answer"):
        Slurm(SlurmConfig()).find(run.path)
    stub(programs, "squeue", f"echo '9 /elsewhere/submission.sh'; echo '12 {scripts}/submission_file_1.sh'")
    handle = Slurm(SlurmConfig()).find(run.path)
    assert handle is not None and handle.job == "12"
    monkeypatch.setattr(commands, "SECONDS_OF_COMMAND", 60.0)
    [handle] = Slurm(SlurmConfig()).submit([run.path])
    assert handle.job == "12" and len(calls(programs, "sbatch")) == 2, "once each, and no third"
    stub(programs, "squeue", "true")
    monkeypatch.setattr(commands, "SECONDS_OF_COMMAND", 0.0)
    run.job.write_text(json.dumps({"job": None, "scripts": str(scripts)}))
    assert Slurm(SlurmConfig()).find(run.path) is None


GPU = Partition("gpu", True, 2 * 86400, 4, 64, 8, True)
CPU = Partition("cpu", False, None, 10, 32, 0, True)
FITS: dict[str, Any] = {"nodes": 2, "processes": 4, "gpus": 4, "cpus": 8, "time": "1-00:00:00", "warning_seconds": 120}


def wrong(partition: Partition = GPU, **changes: Any) -> list[str]:
    return list(reasons(partition, **(FITS | changes)))


def test_a_job_that_fits_is_not_refused():
    assert wrong() == []
    assert wrong(CPU, gpus=None, cpus=None, time=None) == []
    assert wrong(time=2, warning_seconds=119) == wrong(CPU, gpus=None, time="UNLIMITED", warning_seconds=9999) == []
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
        (
            {"time": 2},
            "launcher.warning_seconds=120: a job ends after 120 s (launcher.time), so it would save and be queued "
            "again after its first step. Try: a longer launcher.time, or launcher.warning_seconds=30",
        ),
        (
            {"time": None, "warning_seconds": 200_000},
            "launcher.warning_seconds=200000: a job ends after 172800 s (launcher.time), so it would save and be "
            "queued again after its first step. Try: a longer launcher.time, or launcher.warning_seconds=43200",
        ),
        (
            {"time": "0:30"},
            "launcher.warning_seconds=120: a job ends after 30 s (launcher.time), so it would save and be queued "
            "again after its first step. Try: a longer launcher.time",
        ),
    ],
)
def test_a_request_that_does_not_fit_gets_a_suggestion(changes: dict[str, Any], said: str):
    assert wrong(**changes) == [said]


def test_partitions_without_gpus_or_down_are_reported():
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


def test_an_unreachable_cluster_is_a_launcher_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    only_path(tmp_path / "programs", monkeypatch)
    stub(tmp_path / "programs", "sinfo", "echo 'sinfo: fatal: Could not establish a configuration source' >&2; exit 1")
    with pytest.raises(ValueError) as caught:
        look_up(None)
    assert str(caught.value) == (
        "launcher=slurm: sinfo: fatal: Could not establish a configuration source. "
        "Try: a login node of the cluster, or launcher=local"
    )
