"""Hydra's sweeper gives the points of a grid."""

import subprocess
import sys

import pytest

from distft.config import ConfigError
from distft.sweep.grid import Grid
from distft.sweep.jobs import named
from distft.sweep.request import parse


def test_points_are_all_combinations_the_last_key_first():
    points, further = Grid().points(parse(["optimizer.lr=1e-5,3e-5", "seed=range(0,2)"]), {})
    assert points == [(f"optimizer.lr={lr}", f"seed={seed}") for lr in ("1e-05", "3e-05") for seed in (0, 1)]
    assert not further


def test_values_may_be_added_at_the_end_and_nowhere_else():
    earlier = named([("seed=0",), ("seed=1",)])
    assert len(Grid().points(parse(["seed=0,1,2"]), earlier)[0]) == 3
    with pytest.raises(ConfigError, match="000-seed_0"):
        Grid().points(parse(["seed=2,0,1"]), earlier)


def test_hydras_sweeper_is_the_one_that_its_plugins_know():
    program = "from distft.sweep.grid import Grid; from distft.sweep.request import parse; parse(['seed=0,1']); Grid()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
