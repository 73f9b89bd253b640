"""Hydra's sweeper gives the points of a grid."""

import subprocess
import sys

import pytest

from distft.config import ConfigError
from distft.run import RunFolder
from distft.sweep.grid import Grid
from distft.sweep.jobs import earlier_points, named
from distft.sweep.request import parse


def test_points_are_all_combinations_the_last_key_first():
    points, further = Grid().points(parse(["optimizer.lr=1e-5,3e-5", "seed=range(0,2)"]), {})
    assert points == [(f"optimizer.lr={lr}", f"seed={seed}") for lr in ("1e-05", "3e-05") for seed in (0, 1)]
    assert not further


def test_values_may_be_added_only_at_the_end():
    earlier = named([("seed=0",), ("seed=1",)])
    assert len(Grid().points(parse(["seed=0,1,2"]), earlier)[0]) == 3
    with pytest.raises(ConfigError, match="000-seed_0"):
        Grid().points(parse(["seed=2,0,1"]), earlier)


@pytest.mark.slow
def test_the_sweeper_is_registered_with_hydra():
    program = "from distft.sweep.grid import Grid; from distft.sweep.request import parse; parse(['seed=0,1']); Grid()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_sweep_of_an_older_version_keeps_its_names(tmp_path):
    points = [("optimizer.lr=1e-05", "seed=0"), ("optimizer.lr=1e-05", "seed=1"), ("optimizer.lr=1e-05", "seed=2")]
    for i, name in enumerate(["000-optimizer.lr=1e-05,seed=0", "001-optimizer.lr=1e-05,seed=1"]):
        (tmp_path / name).mkdir()
        RunFolder(tmp_path / name).add_command(f"python -m distft.launch {' '.join(points[i])} name='{name}'", "")
    earlier = earlier_points(tmp_path, ["optimizer.lr", "seed"])
    found, _ = Grid().points(parse(["optimizer.lr=1e-5", "seed=0,1,2"][1:]), {})
    assert len(found) == 3
    assert list(named(points, earlier=earlier)) == [*earlier, "002-optimizer.lr_1e-05-seed_2"]
    assert len(earlier) == 2 and list(earlier.values()) == points[:2]
    swept = parse(["optimizer.lr=choice(1e-5)", "seed=0,1,2"])
    assert [tuple(point) for point in Grid().points(swept, earlier)[0]] == points
    (tmp_path / "002-optimizer.lr=2,seed=5").mkdir()
    RunFolder(tmp_path / "002-optimizer.lr=2,seed=5").add_command("python -m distft.launch seed=1", "")
    with pytest.raises(ConfigError, match="belongs to another sweep"):
        earlier_points(tmp_path, ["optimizer.lr", "seed"])
