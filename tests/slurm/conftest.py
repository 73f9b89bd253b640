"""One real SLURM for the whole test run."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

sys.path.insert(0, str(CHECKOUT / "slurm"))  # a script of its own, no part of the package
from practice_cluster import Cluster


@pytest.fixture(scope="session")
def cluster(require, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Gives a cluster of 4 nodes with 4 GPUs each; none of its daemons is left when the tests are done."""
    for program in ("sbatch", "munged", "slurmctld", "slurmd"):
        require(program)
    cluster = Cluster(Path(tmp_path_factory.mktemp("slurm")))
    cluster.start()
    yield cluster
    cluster.stop()
    assert list(cluster.daemons()) == []
