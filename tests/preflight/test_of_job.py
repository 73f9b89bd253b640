"""What comes of a job's figures: it is queued again once without the nodes at fault, where others are left."""

import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from distft.doctor import preflight
from distft.doctor.preflight import Node
from distft.run import RunFolder, read_json, write_json
from tests.support.fake_run import freeze

LAUNCHER = {"nodes": 2, "preflight": True, "exclude": ["n9"], "partition": None}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The commands that SLURM is given; it has four nodes."""
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(preflight, "slurm", lambda *command: commands.append(command))
    monkeypatch.setattr(preflight, "look_up", lambda _: SimpleNamespace(nodes=4))
    monkeypatch.setattr(preflight.signal, "signal", lambda *_: None)
    return commands


def measured(run: RunFolder, slow: str | None) -> None:
    assert preflight.freeze_preflight(run, "12.0")
    rates = {"n1": 100.0, "n2": 90.0} | ({slow: 10.0} if slow else {})
    write_json(run.path / "preflight" / "figures.json", [asdict(Node(n, {"memory": r}, 0.0)) for n, r in rates.items()])


def test_it_is_due_once_for_each_start_of_a_job(tmp_path: Path):
    run = freeze(tmp_path / "run", launcher=LAUNCHER)
    assert preflight.freeze_preflight(run, "12.0") and (run.path / "preflight" / "plan.json").is_file()
    assert not preflight.freeze_preflight(run, "12.0"), "the ranks are started again on the same nodes"
    assert not (run.path / "preflight" / "plan.json").exists(), "the job's script looks for it"
    assert preflight.freeze_preflight(run, "12.1")
    assert yaml.safe_load((run.path / "preflight" / "config.yaml").read_text())["work"] == preflight._WORK
    assert not preflight.freeze_preflight(freeze(tmp_path / "plain", launcher={"nodes": 2}), "12.0")


def test_a_slow_node_is_left_out_once_beside_those_that_the_user_leaves_out(tmp_path: Path, asked: list, capfd):
    run = freeze(tmp_path / "run", launcher=LAUNCHER)
    measured(run, slow="n2")
    assert preflight.conclude(run, "12", ["n1", "n2"])
    assert asked == [("scontrol", "requeue", "12"), ("scontrol", "update", "JobId=12", "ExcNodeList=n2,n9")]
    assert run.read_status()["excluded"] == ["n2"]
    assert read_json(run.path / "preflight.json")["outliers"] == [
        {"node": "n2", "why": "memory: 10 GiB/s, the others 100"}
    ]
    assert "n2: memory: 10 GiB/s, the others 100" in capfd.readouterr().err
    assert not preflight.conclude(run, "12", ["n1", "n2"]) and len(asked) == 2
    assert "continues with n2: it was already requeued once" in capfd.readouterr().err


def test_nodes_like_each_other_are_left_alone(tmp_path: Path, asked: list):
    run = freeze(tmp_path / "run", launcher=LAUNCHER)
    measured(run, slow=None)
    assert not preflight.conclude(run, "12", ["n1", "n2"]) and asked == []


def test_a_job_that_no_other_nodes_are_left_for_goes_on(tmp_path: Path, asked: list, monkeypatch, capfd):
    monkeypatch.setattr(preflight, "look_up", lambda _: SimpleNamespace(nodes=3))
    run = freeze(tmp_path / "run", launcher=LAUNCHER)
    measured(run, slow="n2")
    assert not preflight.conclude(run, "12", ["n1", "n2"]) and asked == []
    assert "1 other nodes are left in the partition, 2 are needed" in capfd.readouterr().err


def test_a_node_whose_rank_fails_in_it_is_at_fault(tmp_path: Path, asked: list):
    run = freeze(tmp_path / "run", launcher=LAUNCHER)
    assert preflight.freeze_preflight(run, "12.0")
    error = {"rank": 2, "type": "Hang", "message": "no progress\nfor long", "time": time.time()}
    preflight.folder_of(run).write_status(state="failed", error=error)
    assert preflight.conclude(run, "12", ["n1", "n2"])  # two processes on each
    assert read_json(run.path / "preflight.json")["outliers"] == [{"node": "n2", "why": "Hang: no progress"}]
