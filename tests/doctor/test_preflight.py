"""An outlier node is named with the operation that is slow; similar nodes are not.

A job is requeued once without its outlier nodes, if others are left.
Parsers are tested with recorded outputs; recorded/README.md gives their sources.
"""

import random
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from distft.doctor import preflight
from distft.doctor.preflight import Node, outliers
from distft.doctor.preflight_node import diagnosis, kernel_log, link_errors, memory_errors, node_of, troubles
from distft.run import RunFolder, read_json, write_json
from tests.support.fake_run import freeze

RATES = {"matrix product": 100.0, "memory": 10.0, "disk": 500.0}


def nodes(count: int, spread: float = 0.2, seed: int = 0, **given: Any) -> list[Node]:
    chance = random.Random(seed)

    def about(value: float) -> float:
        return value * chance.uniform(1 - spread, 1 + spread)

    found = []
    for i in range(count):
        pairs = {f"n{j % count}": about(1.0) for j in (i - 1, i + 1)} if count > 1 else {}
        found.append(
            Node(f"n{i}", {name: about(rate) for name, rate in RATES.items()}, about(0.01), pairs=pairs, **given)
        )
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(20))
def test_nodes_of_similar_speed_pass(count: int, seed: int):
    assert outliers(nodes(count, seed=seed)) == []


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("what", list(RATES))
def test_a_node_at_a_third_of_the_others_speed_is_named(count: int, what: str):
    found = nodes(count)
    slow = found[1]
    found[1] = Node(slow.name, {**slow.rates, what: RATES[what] / 3}, slow.clock, pairs=slow.pairs)
    [outlier] = outliers(found)
    assert outlier.node == "n1" and outlier.why.startswith(f"{what}: {RATES[what] / 3:.3g} ")


def test_accelerators_have_a_stricter_limit_than_cores():
    slower = [Node("n0", {"matrix product": 70.0}, 0.0, on_accelerator=True)]
    rest = [Node(f"n{i}", {"matrix product": 100.0}, 0.0, on_accelerator=True) for i in (1, 2)]
    assert [each.node for each in outliers([*slower, *rest])] == ["n0"]
    assert outliers([Node("n0", {"matrix product": 70.0}, 0.0), *nodes(2, spread=0.01)]) == []


def test_a_node_is_as_fast_as_its_slowest_process():
    first = Node("n0", {"matrix product": 100.0, "memory": 5.0}, 1.0)
    second = Node("n0", {"matrix product": 30.0, "memory": 9.0, "disk": 500.0}, 2.0)
    found = node_of([first, second])
    assert found.rates == {"matrix product": 30.0, "memory": 5.0, "disk": 500.0}
    assert (found.name, found.clock) == ("n0", 1.0)


@pytest.mark.parametrize("count", [3, 4, 8])
def test_only_a_node_with_all_pairs_slow_is_named(count: int):
    def with_pairs(slow: set[frozenset[str]]) -> list[Node]:
        names = [f"n{i}" for i in range(count)]
        sides = [{names[i - 1], names[(i + 1) % count]} for i in range(count)]
        rate = {True: 0.1, False: 1.0}
        return [
            Node(me, RATES, 0.0, pairs={other: rate[frozenset((me, other)) in slow] for other in side})
            for me, side in zip(names, sides, strict=True)
        ]

    assert outliers(with_pairs({frozenset(("n0", "n1"))})) == []
    [outlier] = outliers(with_pairs({frozenset(("n0", "n1")), frozenset(("n1", "n2"))}))
    assert outlier.node == "n1" and "all-reduce with a neighbour" in outlier.why


def test_clock_skew_and_failing_gpus_are_named():
    found = nodes(3)
    late = Node("n3", RATES, found[0].clock - 40)
    sick = Node("n4", RATES, found[0].clock, troubles=["GPU 0: Xid 79: GPU has fallen off the bus"])
    assert [(each.node, each.why) for each in outliers([*found, late, sick])] == [
        ("n4", "GPU 0: Xid 79: GPU has fallen off the bus"),
        ("n3", "its clock is 40 s behind the others"),
    ]


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


def test_preflight_runs_once_per_start_of_a_job(tmp_path: Path):
    run = freeze(tmp_path / "run", launcher=LAUNCHER)
    assert preflight.freeze_preflight(run, "12.0") and (run.path / "preflight" / "plan.json").is_file()
    assert not preflight.freeze_preflight(run, "12.0"), "the ranks are started again on the same nodes"
    assert not (run.path / "preflight" / "plan.json").exists(), "the job's script looks for it"
    assert preflight.freeze_preflight(run, "12.1")
    assert yaml.safe_load((run.path / "preflight" / "config.yaml").read_text())["work"] == preflight._WORK
    assert not preflight.freeze_preflight(freeze(tmp_path / "plain", launcher={"nodes": 2}), "12.0")


def test_a_slow_node_is_excluded_next_to_the_users_exclusions(tmp_path: Path, asked: list, capfd):
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


def test_a_job_of_similar_nodes_starts(tmp_path: Path, asked: list):
    run = freeze(tmp_path / "run", launcher=LAUNCHER)
    measured(run, slow=None)
    assert not preflight.conclude(run, "12", ["n1", "n2"]) and asked == []


def test_a_job_without_spare_nodes_continues(tmp_path: Path, asked: list, monkeypatch, capfd):
    monkeypatch.setattr(preflight, "look_up", lambda _: SimpleNamespace(nodes=3))
    run = freeze(tmp_path / "run", launcher=LAUNCHER)
    measured(run, slow="n2")
    assert not preflight.conclude(run, "12", ["n1", "n2"]) and asked == []
    assert "1 other nodes are left in the partition, 2 are needed" in capfd.readouterr().err


def test_a_node_whose_preflight_fails_is_excluded(tmp_path: Path, asked: list):
    run = freeze(tmp_path / "run", launcher=LAUNCHER)
    assert preflight.freeze_preflight(run, "12.0")
    error = {"rank": 2, "type": "Hang", "message": "no progress\nfor long", "time": time.time()}
    preflight.folder_of(run).write_status(state="failed", error=error)
    assert preflight.conclude(run, "12", ["n1", "n2"])  # two processes on each
    assert read_json(run.path / "preflight.json")["outliers"] == [{"node": "n2", "why": "Hang: no progress"}]


RECORDED = Path(__file__).with_name("recorded")


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


def test_only_recent_hardware_xids_are_reported():
    found = {each.gpu: each for each in kernel_log(recorded("dmesg.txt"), uptime_seconds=100_000)}
    assert {gpu: each.is_fatal for gpu, each in found.items()} == {
        "0000:9b:00": False,  # contained: the one job that met it has ended
        "0000:44:00": True,
        "0019:01:00": True,
        "0018:01:00": False,
    }
    assert found["0000:44:00"].what == "Xid 79: GPU has fallen off the bus"
    assert "0000:0a:00" in {each.gpu for each in kernel_log(recorded("dmesg.txt"), uptime_seconds=2000)}


def test_a_gpu_off_the_bus_without_an_xid_is_reported_once():
    [found] = kernel_log(recorded("dmesg-off-bus.txt"), uptime_seconds=2000)
    assert (found.gpu, found.is_fatal) == ("0000:b3:00.0", True) and "fallen off the bus" in found.what


def test_only_ecc_errors_since_the_driver_load_count():
    found = list(memory_errors(recorded("smi-ecc.txt")))
    fatal = {(each.gpu, each.what) for each in found if each.is_fatal}
    assert fatal == {
        ("00000000:64:00.0", "4 uncorrectable ECC errors (SRAM Uncorrectable SEC-DED)"),
        ("00000000:64:00.0", "more SRAM errors than its maker allows"),
        ("00000000:64:00.0", "a row of its memory could not be remapped"),
    }
    pending = [each.gpu for each in found if not each.is_fatal]
    assert pending == ["00000000:53:00.0", "00000000:75:00.0"]


def test_a_link_down_is_fatal_and_a_recovered_one_noted():
    [recovered] = link_errors(recorded("nvlink-e.txt"))
    assert (recovered.gpu, recovered.is_fatal) == ("0", False) and "NVLink 1" in recovered.what
    [down] = link_errors(recorded("nvlink-s.txt"))
    assert (down.gpu, down.what, down.is_fatal) == ("1", "NVLink 1 is down", True)


@pytest.mark.parametrize(
    ("file", "fatal", "noted"),
    [("dcgmi-3.json", [("1", "DCGM's PCIe failed: GPU 1's PCIe link runs at generation 3")], []),
     ("dcgmi-4.json", [("3", "DCGM's memory failed: a value was read back wrong")], ["0"])],
)  # fmt: skip
def test_failed_dcgm_tests_are_read_from_both_formats(file: str, fatal: list, noted: list):
    found = list(diagnosis(f"Warning: a line before it\n{recorded(file)}"))
    assert [(each.gpu, each.what) for each in found if each.is_fatal] == fatal
    assert [each.gpu for each in found if not each.is_fatal] == noted


@pytest.mark.parametrize("parse", [kernel_log, memory_errors, link_errors, diagnosis])
@pytest.mark.parametrize(
    "text", ["", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "{"]
)
def test_empty_outputs_are_not_a_problem(parse, text: str):
    assert list(parse(text)) == []


def test_only_programs_on_path_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, text in (("nvidia-smi", recorded("nvlink-s.txt")), ("dcgmi", recorded("dcgmi-4.json"))):
        (tmp_path / name).write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "dmesg").write_text(
        "#!/bin/sh\necho 'dmesg: read kernel buffer failed: Operation not permitted' >&2\nexit 1\n"
    )
    (tmp_path / "dmesg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert [(each.gpu, each.what) for each in troubles() if each.is_fatal] == [
        ("1", "NVLink 1 is down"),
        ("3", "DCGM's memory failed: a value was read back wrong"),
    ]
