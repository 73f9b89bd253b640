"""Retention deletes checkpoints after the next commit, and none that is being read.

Checkpoint folders and indexes on disks that fail or lag.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Timer
from typing import Any

import pytest
import torch

from distft.checkpoint import retention
from distft.checkpoint import save as saving
from distft.checkpoint.format import INDEX, MANIFEST, check_all, read_index, step_dir, write_index
from distft.checkpoint.load import find
from distft.checkpoint.probe import PROBE, Probe, read_probe, write_probe
from distft.checkpoint.retention import Best, Retention, begin, best_at, complete, reading, retain
from distft.checkpoint.save import Saver, Snapshot
from distft.runtime.process_group import World
from distft.tensors.integrity import Damaged
from tests.checkpoint.held import held
from tests.support.alone import alone

HOLD = "import sys, pathlib; from distft.checkpoint.retention import reading\n"
HOLD += "with reading(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with alone() as world:
        yield world


@pytest.fixture(params=[False, True], ids=["at once", "in the background"])
def make_saver(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Callable[..., Saver]:
    snapshot = Snapshot(world.device) if request.param else None
    return lambda retention, start=0: Saver(tmp_path, retention, world, start, snapshot)


def save(saver: Saver, *steps: int, best: int | None = None) -> None:
    for step in steps:
        saver.start(held({"weight": torch.randn(9)}), step, {}, is_best=step == best)
        saver.finish()
    saver.cleaner.submit(int).result()  # what it deletes


def there(checkpoints: Path) -> list[int]:
    """Returns the steps of the folders that are there, and of no other."""
    steps = sorted(int(path.name.removeprefix("step-")) for path in checkpoints.glob("step-*"))
    assert steps == read_index(checkpoints) and not list(checkpoints.glob(".*"))
    return steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("retention", "best", "kept"),
    [
        (Retention(1), None, [10]),
        (Retention(3), None, [8, 9, 10]),
        (Retention(2), 4, [4, 9, 10]),
        (Retention(2), 10, [9, 10]),
        (Retention(1, every=3), None, [3, 6, 9, 10]),
        (Retention(2, every=5), 4, [4, 5, 9, 10]),
    ],
    ids=str,
)
def test_newest_best_and_every_kth_are_kept(
    retention: Retention, best: int | None, kept: list[int], make_saver: Any, tmp_path: Path
) -> None:
    save(make_saver(retention), *range(1, 11), best=best)
    assert there(tmp_path) == kept
    for step in kept:
        check_all(step_dir(tmp_path, step))


def test_the_previous_best_is_removed_after_a_better_one(make_saver: Any, tmp_path: Path) -> None:
    saver = make_saver(Retention(1))
    save(saver, 1, 2, best=1)
    assert there(tmp_path) == [1, 2]
    save(saver, 3, 4, best=3)
    assert there(tmp_path) == [3, 4]


@pytest.mark.slow
def test_a_slow_deletion_delays_a_save_only_on_a_full_disk(
    make_saver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, real, full = Event(), saving.delete, [False]

    def delete(folders: Any) -> None:
        assert go_on.wait(60)
        real(folders)
        full[0] = False

    monkeypatch.setattr(saving, "delete", delete)
    saved = make_saver(Retention(1))
    for step in (1, 2, 3, 4):
        saved.start(held({"weight": torch.randn(9)}), step, {})
        saved.finish()
    left = {f".step-{step:08d}.leaving" for step in (1, 2, 3)}
    assert {path.name for path in tmp_path.glob(".*")} == left, "the next saves leave it to its thread"
    assert read_index(tmp_path) == [4]
    full[0] = True
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda _: usage._replace(free=0 if full[0] else usage.free))
    Timer(0.2, go_on.set).start()
    saved.start(held({"weight": torch.randn(9)}), 5, {})
    saved.finish()
    assert go_on.is_set() and saved.saved_step == 5
    saved.cleaner.submit(int).result()
    assert there(tmp_path) == [5]


def test_an_older_checkpoint_is_removed_after_the_next_commit(
    make_saver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = make_saver(Retention(1))
    save(saved, 1)
    seen: list[list[int]] = []
    real = retention._retire

    def leave(folder: Path) -> Path | None:
        seen.append([int(each.name.removeprefix("step-")) for each in complete(tmp_path)])
        check_all(step_dir(tmp_path, 2))
        assert (tmp_path / "latest").resolve() == step_dir(tmp_path, 2)
        return real(folder)

    monkeypatch.setattr(retention, "_retire", leave)
    save(saved, 2)
    assert seen == [[1, 2]] and there(tmp_path) == [2]


def test_a_failed_save_deletes_nothing(make_saver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(make_saver(Retention(1)), 1, 2)
    again = make_saver(Retention(1), start=1)  # step 2 is of a history that was left

    def fail(*_: Any) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(saving, "publish", fail)
        with pytest.raises(saving.SaveFailed, match="step-00000003 could not be saved: the disk is gone"):
            save(again, 3)
    assert there(tmp_path) == [2]


@contextmanager
def another_program_reads(folder: Path) -> Iterator[None]:
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield
        process.kill()  # the kernel lets go, however it ends


@pytest.mark.slow
def test_a_checkpoint_being_read_is_kept_until_the_reader_ends(make_saver: Any, tmp_path: Path) -> None:
    saver = make_saver(Retention(1))
    save(saver, 1)
    with another_program_reads(step_dir(tmp_path, 1)):
        save(saver, 2, 3)
        assert there(tmp_path) == [1, 3]
        check_all(step_dir(tmp_path, 1))
    save(saver, 4)
    assert there(tmp_path) == [4]


@pytest.mark.slow
def test_readers_share_a_checkpoint_and_late_ones_get_an_error(make_saver: Any, tmp_path: Path) -> None:
    saver, first = make_saver(Retention(1)), step_dir(tmp_path, 1)
    save(saver, 1)
    with another_program_reads(first), reading(first):
        save(saver, 2)
    save(saver, 3)
    with pytest.raises(Damaged, match="step-00000001 has been deleted by retention.* Try: at=latest"), reading(first):
        pass


def test_a_resume_holds_the_checkpoint_of_another_run(make_saver: Any, world: World, tmp_path: Path) -> None:
    saver = make_saver(Retention(1))
    save(saver, 1)

    def use(*_: Any) -> None:
        save(saver, 2)  # the other run goes on

    found = find(tmp_path, str(step_dir(tmp_path, 1)), world, use)
    assert found is not None and there(tmp_path) == [1, 2]
    save(saver, 3)
    assert there(tmp_path) == [3]


def test_the_first_save_removes_an_abandoned_history(make_saver: Any, tmp_path: Path) -> None:
    save(make_saver(Retention(9)), 1, 2, 3, 4, 5, best=4)
    again = make_saver(Retention(9), start=2)
    assert there(tmp_path) == [1, 2, 3, 4, 5]
    save(again, 3)
    assert there(tmp_path) == [1, 2, 3]
    assert retention.best(tmp_path) is None


def test_a_resumed_run_knows_its_best(make_saver: Any, tmp_path: Path) -> None:
    """The manifest has the loss; an older version's has not, and metrics.jsonl does."""
    evals = [{"step": 0, "loss": 3.0}, {"step": 1, "loss": 2.0}, {"step": 2, "loss": None}]
    saver = make_saver(Retention(9))
    assert best_at(tmp_path, 2, evals) == Best(0, 3.0) and best_at(tmp_path, 0, evals) is None
    assert best_at(tmp_path, 2, []) is None and best_at(tmp_path, 2, [{"step": 0, "loss": float("nan")}]) is None
    save(saver, 1, 2, best=1)
    assert best_at(tmp_path, 2, evals) == Best(1, 2.0)
    saver.start(held({"weight": torch.randn(9)}), 3, {"held_out_loss": 1.5}, is_best=True)
    saver.finish()
    assert best_at(tmp_path, 3, evals) == Best(3, 1.5)
    assert best_at(tmp_path, 2, evals) == Best(0, 3.0), "the newer one is of a history that is left"


def test_a_probe_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe(torch.arange(4)[None], torch.randn(1, 4, 7), torch.arange(2), torch.arange(3), torch.rand(3))
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("power")))
        with pytest.raises(OSError, match="power"):
            write_probe(tmp_path, probe)
    assert not list(tmp_path.iterdir())
    write_probe(tmp_path, probe)
    assert [path.name for path in tmp_path.iterdir()] == [PROBE]
    assert all(torch.equal(value, getattr(probe, name)) for name, value in vars(read_probe(tmp_path)).items())
    (tmp_path / PROBE).write_bytes((tmp_path / PROBE).read_bytes()[:-1])
    with pytest.raises(Damaged, match=f"{PROBE} cannot be read"):
        read_probe(tmp_path)


NOBODY = 65_534


def checkpoints_of(folder: Path, there: set[int], listed: set[int]) -> Path:
    for step in there:
        step_dir(folder, step).mkdir()
        (step_dir(folder, step) / MANIFEST).touch()
    write_index(folder, listed)
    return folder


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_a_failed_index_write_deletes_its_temporary_file(tmp_path: Path) -> None:
    (tmp_path / INDEX).mkdir()  # so the rename onto it fails
    with pytest.raises(OSError):
        write_index(tmp_path, {1})
    assert names(tmp_path) == {INDEX}


def test_the_next_save_deletes_the_leftovers_of_a_kill(tmp_path: Path) -> None:
    checkpoints_of(tmp_path, {1}, {1})
    for name in (".step-00000002.partial", ".step-00000001.older", ".step-00000000.leaving"):
        (tmp_path / name / "below").mkdir(parents=True)
    for name in (f".{INDEX}.new", ".latest.new", ".best.new"):
        (tmp_path / name).symlink_to("nowhere")
    partial = begin(tmp_path, 2)
    assert names(tmp_path) == {INDEX, "step-00000001", partial.name}
    assert names(partial) == set()


def test_an_uncommitted_step_does_not_count_for_retention(tmp_path: Path) -> None:
    checkpoints_of(tmp_path, {1, 2, 3}, {1, 2, 3, 4, 5})
    assert [each.name for each in retain(tmp_path, Retention(2), set())] == [".step-00000001.leaving"]
    assert read_index(tmp_path) == [2, 3]


def test_a_checkpoint_without_manifest_is_deleted_in_turn(tmp_path: Path) -> None:
    """If it were unlisted before it is deleted, it would stay forever."""
    checkpoints_of(tmp_path, {1, 2, 3}, {1, 2, 3})
    (step_dir(tmp_path, 2) / MANIFEST).unlink()
    retain(tmp_path, Retention(2), set())
    assert read_index(tmp_path) == [2, 3]
    retain(tmp_path, Retention(1), set())
    assert not step_dir(tmp_path, 2).exists() and read_index(tmp_path) == [3]


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that this process may pass through and not open, as others' are."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "mine").mkdir(mode=0o777)
        (Path(name) / "mine").chmod(0o777)
        Path(name).chmod(0o311)
        was = os.geteuid()
        if was == 0:
            os.seteuid(NOBODY)
        try:
            yield Path(name)
        finally:
            os.seteuid(was)
            Path(name).chmod(0o700)


def test_a_run_may_be_below_an_unreadable_folder(closed: Path) -> None:
    with pytest.raises(PermissionError):
        os.listdir(closed)
    assert begin(closed / "mine" / "run" / "checkpoints", 1).is_dir()
