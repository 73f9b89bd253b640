"""Runs with faults end like runs without, and the pure functions of the fault injection."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.__main__ import main
from tests.chaos.faults import ENDS, EVERY, KINDS, draw
from tests.chaos.table import percentile


@pytest.mark.parametrize("seed", range(20))
def test_fault_kinds_are_balanced_with_checkpoints_in_between(seed: int):
    faults = draw(KINDS, 2 * len(KINDS), seed, ranks=4)
    assert set(Counter(fault.kind for fault in faults).values()) == {2}
    assert {fault.rank for fault in faults} <= set(range(4))
    assert [fault.number for fault in faults] == list(range(len(faults)))
    ends = [fault.step for fault in faults if fault.kind in ENDS]
    assert all(third - first > EVERY for first, third in zip(ends, ends[2:], strict=False))
    assert draw(KINDS, 2 * len(KINDS), seed, ranks=4) == faults


def test_a_percentile_is_a_value_that_was_measured():
    assert percentile([3.0, 1.0, 2.0], 0.95) == 3.0
    assert percentile(list(range(1, 101)), 0.95) == 95


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_50_faults_do_not_change_the_result_of_a_run(tmp_path: Path):
    assert main(["faults=50", "seed=0", f"out={tmp_path}"]) == 0, json.loads((tmp_path / "chaos.json").read_text())


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_10_cluster_faults_do_not_change_the_result_of_a_run(tmp_path: Path, require):
    for program in ("sbatch", "munged", "slurmctld", "slurmd"):
        require(program)
    from tests.chaos import cluster

    assert cluster.main(["faults=10", "seed=0", f"out={tmp_path}"]) == 0, (tmp_path / "chaos.json").read_text()
