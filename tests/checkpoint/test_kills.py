"""A SIGKILL at any time neither destroys a committed checkpoint nor publishes a partial one.

One run is killed repeatedly and resumes each time.
"""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

from distft.checkpoint.format import read_index, step_dir
from distft.checkpoint.load import Checkpoint, find
from distft.checkpoint.retention import begin, complete
from distft.runtime.process_group import World
from tests.checkpoint.counted import is_whole
from tests.checkpoint.kills.group import Life
from tests.checkpoint.kills.round import Groups, Saves, groups, phase
from tests.support.alone import alone

SAMPLE, ALL = 48, 200
PHASES = 10
LAYOUTS = [(world, background) for world in (1, 2) for background in (False, True)]


@pytest.fixture
def world() -> Iterator[World]:
    """This process alone, with one thread: the killed processes run next to it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with alone() as world:
        yield world
    torch.set_num_threads(threads)


def newest(checkpoints: Path, world: World) -> Checkpoint | None:
    with redirect_stdout(StringIO()):
        return find(checkpoints, "auto", world)


def hold(checkpoints: Path, saves: Saves, attempt: int, world: World) -> int:
    """Asserts what a run relies on after a kill; returns the step that it continues from."""
    found = newest(checkpoints, world)
    step = found.step if found else 0
    assert saves.saved <= step <= saves.started
    if found and step > saves.saved:
        assert found.manifest["attempt"] == attempt
    for folder in complete(checkpoints):
        assert is_whole(Checkpoint(folder)), folder
    best = checkpoints / "best"
    assert not best.is_symlink() or Checkpoint(best).step % 3 == 0
    partial = begin(checkpoints, step + 1)
    listed = {step_dir(checkpoints, each).name for each in read_index(checkpoints)}
    there = {each.name for each in checkpoints.iterdir()}
    assert there <= {*listed, "index.json", "latest", "best", partial.name}
    partial.rmdir()
    return step


def kill_over_and_over(checkpoints: Path, count: int, world: World, group: Groups) -> Counter[str]:
    """Kills a run `count` times, on every layout in turn; returns how many kills came into what."""
    phases, step, chance = Counter[str](), 0, random.Random(0)
    for attempt in range(count):
        processes, background = LAYOUTS[attempt % len(LAYOUTS)]
        saves = group.live(Life(str(checkpoints), processes, background, step, attempt), chance)
        phases[phase(checkpoints, saves, processes)] += 1
        step = hold(checkpoints, saves, attempt, world)
    return phases


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_loses_nothing(tmp_path: Path, world: World) -> None:
    with groups() as group:
        phases = kill_over_and_over(tmp_path / "checkpoints", SAMPLE, world, group)
    print(dict(phases.most_common()))
    assert len(phases) >= 5


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_200_kills_lose_nothing(tmp_path: Path, world: World) -> None:
    with groups() as group:
        phases = kill_over_and_over(tmp_path / "checkpoints", ALL, world, group)
    print(dict(phases.most_common()))
    assert len(phases) >= 9
