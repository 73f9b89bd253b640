"""A power loss destroys no committed checkpoint: the newest one is found in every possible state of the disk.

Saves of two real processes are recorded with strace and played back on a disk that keeps what was synced and, of the
rest, any part; each state is written out and opened by the real code.
"""

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint.power.disk import Tree
from tests.checkpoint.power.look import Facts, look, put
from tests.checkpoint.power.record import Call, calls_below, record
from tests.checkpoint.power.replay import Replay, lines_that_sync, moments
from tests.support.alone import alone

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("power")
    (folder / "disk").mkdir()
    (folder / "marks").mkdir()
    return folder


@pytest.fixture(scope="module")
def calls(folder: Path, require: Any) -> list[Call]:
    """What two processes did to the disk in nine saves: the first of a run, best moved, some deleted, some replaced."""
    trace = record(require("strace"), folder / "trace", "tests.checkpoint.power.saves", 2, str(folder))
    return calls_below(trace, folder)


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Tree], Facts]]:
    """Returns what the real code finds in a state, cached per state."""
    scratch = tmp_path_factory.mktemp("states") / "disk"
    with alone() as world:

        @cache
        def facts_of(state: Tree) -> Facts:
            shutil.rmtree(scratch, ignore_errors=True)
            put(state, scratch)
            return look(scratch, world)

        yield facts_of


def tree_of(path: Path) -> Tree:
    if path.is_symlink():
        return str(path.readlink())
    if path.is_file():
        return path.read_bytes()
    return tuple((each.name, tree_of(each)) for each in sorted(path.iterdir()))


def broken(calls: list[Call], folder: Path, facts: Callable[[Tree], Facts], without: str = "") -> Iterator[str]:
    for promise, states in moments(calls, folder, without):
        for state in states:
            if broken := facts(state).broken(promise):
                yield f"{promise}: {broken}"


def test_a_replayed_write_log_gives_the_written_files(calls: list[Call], folder: Path) -> None:
    replay = Replay(folder / "disk")
    for time, call in enumerate(calls):
        if Path(call.paths[-1]).parent != folder / "marks":
            replay.play(call, time)
    assert replay.disk.now() == tree_of(folder / "disk")


def test_after_a_power_loss_the_last_committed_one_is_found(
    calls: list[Call], folder: Path, facts: Callable[[Tree], Facts]
) -> None:
    cases = {(promise, state) for promise, states in moments(calls, folder) for state in states}
    lost = [f"{promise}: {broken}" for promise, state in cases if (broken := facts(state).broken(promise))]
    states = len({state for _, state in cases})
    print(f"{len(calls)} calls, {states} states, {len(cases)} with what was promised, {len(lost)} break it")
    assert not lost, "\n".join(sorted(lost, key=len)[:20])
    assert states > 500


def test_every_sync_is_needed(calls: list[Call], folder: Path, facts: Callable[[Tree], Facts]) -> None:
    """Without the syncs that any one line asks for, some loss of power breaks a promise."""
    lines = lines_that_sync(calls, folder)
    needed = {line: next(broken(calls, folder, facts, line), "") for line in lines}
    print("\n".join(f"{line}: {why}" for line, why in needed.items()))
    assert [line for line, why in needed.items() if not why] == []
    assert len(lines) >= 7
