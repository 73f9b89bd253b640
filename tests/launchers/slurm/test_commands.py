"""Outputs of SLURM's programs are parsed; recorded/ has outputs of a real SLURM."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from distft.launchers.slurm import commands
from distft.launchers.slurm.commands import JobState, Partition, SlurmError, job_state, partitions, seconds
from tests.support.stubs import RECORDED, calls, only_path, stub, stub_recorded


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    only_path(tmp_path / "programs", monkeypatch)
    return tmp_path / "programs"


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("90", 90 * 60),
        ("2:00", 120),
        ("0:58", 58),
        ("12:30:05", 12 * 3600 + 30 * 60 + 5),
        ("1-00:00:00", 86400),
        ("365-00:00:00", 365 * 86400),
        ("2-12", 60 * 3600),
        ("2-12:30", 60 * 3600 + 30 * 60),
        ("infinite", None),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("n/a", None),
        ("", None),
    ],
)
def test_every_time_limit_format_is_parsed(limit: str, expected: int | None):
    assert seconds(limit) == expected


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:4", 4),
        ("gpu:a100:4(S:0-1)", 4),
        ("gpu:a100:4(S:0-1),nvme:1", 4),
        ("gpu:nvidia_a100-sxm4.80gb:8", 8),
        ("gpu:a100:2,gpu:v100:6", 8),
        ("nvme:4", 0),
        ("(null)", 0),
    ],
)
def test_only_gpus_are_counted_in_gres(gres: str, gpus: int, programs: Path):
    stub(programs, "sinfo", f"echo 'gpu|infinite|{gres}|8|1|up|idle'")
    assert [each.gpus_per_node for each in partitions()] == [gpus]


def test_partitions_are_parsed_from_a_real_sinfo(programs: Path):
    lines = RECORDED / "sinfo.txt"
    assert lines.read_text().count("main|") == 2, "one node was drained: a line more"
    stub(programs, "sinfo", f'case "$*" in *%P) echo "main*"; echo short;; *) cat {lines};; esac')
    assert partitions() == [
        Partition("main", True, None, 4, 8, 4, True),
        Partition("short", False, 120, 4, 8, 4, True),
        Partition("low", False, None, 2, 8, 4, True),
        Partition("high", False, None, 2, 8, 4, True),
    ]


def test_a_partition_of_mixed_nodes_has_the_largest_sizes(programs: Path):
    lines = ["big|1-00:00:00|gpu:a100:8|64+|2|down|idle", "big|1-00:00:00|(null)|128|6|down|mixed"]
    stub(programs, "sinfo", f"printf '%s\\n' {' '.join(map(repr, lines))}")
    assert partitions() == [Partition("big", False, 86400, 8, 128, 8, False)]


@pytest.mark.parametrize(
    ("recorded", "expected", "alive"),
    [
        ("pending", JobState("PENDING", "Resources", "0:0"), True),
        ("running", JobState("RUNNING", "None", "0:0"), True),
        ("completing", JobState("COMPLETING", "None", "0:15"), True),
        ("cancelled", JobState("CANCELLED", "None", "0:15"), False),
        ("failed", JobState("FAILED", "NonZeroExitCode", "3:0"), False),
    ],
)
def test_job_states_are_parsed_from_a_real_scontrol(recorded: str, expected: JobState, alive: bool, programs: Path):
    stub_recorded(programs, "scontrol", f"{recorded}.txt")
    state = job_state("7_1")
    assert replace(state, queued=None) == expected and state.is_alive is alive
    assert state.queued is not None and time.strftime("%F %H:%M", time.localtime(state.queued)) == "2026-11-25 10:54"
    assert calls(programs, "scontrol") == [["-o", "show", "job", "7_1"]]


def test_an_unqueued_job_has_no_queue_time():
    assert commands.moment("Unknown") is None and commands.moment("") is None


def test_a_forgotten_job_is_unknown_and_not_alive(programs: Path):
    stub(programs, "scontrol", f"cat {RECORDED / 'forgotten.txt'} >&2; exit 1")
    assert job_state("999") == JobState("UNKNOWN") and not job_state("999").is_alive


def test_other_refusals_are_errors_with_slurms_last_line(programs: Path):
    down = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    stub(programs, "scontrol", f"echo 'scontrol: error: first' >&2; echo '{down}' >&2; exit 1")
    with pytest.raises(SlurmError) as caught:
        job_state("7")
    assert str(caught.value) == f"scontrol: {down}"
    stub(programs, "sinfo", "exit 1")
    with pytest.raises(SlurmError, match="sinfo: exited without an error message"):
        partitions()


@pytest.mark.slow
def test_a_silent_controller_is_retried_and_a_refusal_is_not(programs: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(commands, "_SECONDS_TO_ANSWER", 0.3)
    silences = ["echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1", "exec sleep 20", "exit 0"]
    silences += [f"echo '{said}' >&2; exit 1" for said in ("Socket timed out", "Unexpected message received for job 7")]
    for silence in silences:
        stub(programs, "scontrol", silence)
        with pytest.raises(commands.NoAnswer):
            job_state("7")
    stub(programs, "scontrol", "echo 'Access/permission denied' >&2; exit 1")
    with pytest.raises(SlurmError) as caught:
        commands.with_retries(lambda: job_state("7"), 60)
    assert not isinstance(caught.value, commands.NoAnswer) and len(calls(programs, "scontrol")) == len(silences) + 1
    there = programs / "answers"
    stub(
        programs, "scontrol", f"if [ -f {there} ]; then cat {RECORDED / 'running.txt'}; else touch {there}; exit 1; fi"
    )
    monkeypatch.setattr(commands, "is_no_answer", lambda _: True)
    assert commands.with_retries(lambda: job_state("7"), 60).name == "RUNNING"
    assert "SLURM does not answer, retrying for 60 s" in capsys.readouterr().err


@pytest.mark.slow
def test_missing_programs_differ_from_a_silent_controller(programs: Path, monkeypatch: pytest.MonkeyPatch):
    stub(programs, "sinfo", "exec sleep 20")
    monkeypatch.setattr(commands, "_SECONDS_TO_ANSWER", 0.3)
    with pytest.raises(SlurmError, match=r"sinfo gave no answer in .* s: is slurmctld up\?"):
        partitions()
    stub(programs, "sinfo", "echo 'sinfo: error: cannot stat file /x/slurm.conf' >&2; exec sleep 20")
    with pytest.raises(SlurmError, match=r"gave no answer in .* s: error: cannot stat file /x/slurm.conf"):
        partitions()
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(SlurmError, match="squeue is not on PATH: this machine is not a login node of a cluster"):
        commands.seconds_left("7")


def test_the_time_left_and_a_nodes_address_are_read(programs: Path):
    stub(programs, "squeue", "echo 0:58")
    assert commands.seconds_left("7") == 58
    stub_recorded(programs, "scontrol", "node.txt")
    assert commands.node_address("n1") == "127.0.0.1"


def test_queries_inside_a_job_ignore_its_environment(programs: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("SLURM_JOB_ID", "SBATCH_PARTITION", "SLURM_NTASKS"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("SLURM_CONF", "/x/slurm.conf")
    stub(programs, "squeue", "env | grep -E '^(SLURM|SBATCH)_'")
    assert commands.slurm("squeue").split() == ["SLURM_CONF=/x/slurm.conf"]
    assert "SLURM_JOB_ID" in os.environ
