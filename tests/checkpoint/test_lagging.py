"""Lagging directory listings, as on shared file systems, have no effect: no decision depends on one."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from distft.checkpoint.choose import candidates, choose
from distft.checkpoint.format import check_all, rank_file, step_dir
from distft.checkpoint.load import find, restore
from distft.checkpoint.rehearsal import rehearse
from distft.checkpoint.retention import Retention, complete, partial_dir
from distft.checkpoint.save import Saver
from distft.data.shards import Rows
from distft.runtime.process_group import World
from distft.tensors.streaming import folder_chunks, stream
from tests.checkpoint.test_load import fresh_engine, state_of, stepped_engine
from tests.support.alone import alone
from tests.support.lagging import lagging
from tests.support.rows import write_rows
from tests.support.train_cases import tiny_model


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with alone() as world:
        yield world


def save(saver: Saver, world: World, *steps: int, best: int = 0) -> None:
    for step in steps:
        saver.start(stepped_engine(world, step), step, {}, is_best=step == best)


def names(checkpoints: Path) -> list[str]:
    return [folder.name for folder in complete(checkpoints)]


def test_the_index_is_used_and_not_a_lagging_listing(tmp_path: Path) -> None:
    """The premise of what follows."""
    (tmp_path / "old").mkdir()
    with lagging(tmp_path):
        (tmp_path / "old").rmdir()
        (tmp_path / "new").mkdir()
        assert [each.name for each in tmp_path.iterdir()] == [each.name for each in tmp_path.glob("*")] == ["old"]
        assert (tmp_path / "new").is_dir() and not (tmp_path / "old").is_dir()


@pytest.mark.slow
def test_saves_retention_and_resume_work_with_stale_listings(tmp_path: Path, world: World) -> None:
    """The listing shows step 1 alone, for as long as steps 2 to 5 come and go."""
    saver = Saver(tmp_path, Retention(2), world)
    save(saver, world, 1)
    with lagging(tmp_path):
        save(saver, world, 2, 3, 4, 5, best=3)
        assert [folder.name for folder in tmp_path.glob("step-*")] == ["step-00000001"]
        assert names(tmp_path) == ["step-00000003", "step-00000004", "step-00000005"]
        assert choose(tmp_path, "latest").name == "step-00000005" and choose(tmp_path, "best").name == "step-00000003"
        assert candidates(tmp_path, "auto")[0] == step_dir(tmp_path, 5)
        engine = fresh_engine(world)
        found = find(tmp_path, "auto", world, partial(restore, engine))
        assert found is not None and found.step == 5
    right, restored = state_of(stepped_engine(world, 5)), state_of(engine)
    assert right.keys() == restored.keys() and all(torch.equal(right[name], restored[name]) for name in right)
    assert sorted(folder.name for folder in tmp_path.glob("step-*")) == names(tmp_path)


@pytest.mark.slow
def test_an_unlisted_leftover_of_a_save_is_overwritten(tmp_path: Path, world: World) -> None:
    """By a larger world, and seconds ago: neither its folder nor its files are shown."""
    saver = Saver(tmp_path, Retention(2), world)
    save(saver, world, 1)
    with lagging(tmp_path):
        left = partial_dir(tmp_path, 2)
        left.mkdir()
        for rank in range(3):
            (left / rank_file(rank)).write_bytes(b"half of it")
        save(saver, world, 2)
        found = find(tmp_path, "auto", world)
        assert found is not None and found.step == 2
    check_all(step_dir(tmp_path, 2))
    save(saver, world, 3)
    saver.cleaner.submit(int).result()  # what it deletes
    assert not list(tmp_path.glob(".step-*"))  # once listings are right again, nothing is left


@pytest.mark.slow
def test_a_listed_and_deleted_checkpoint_is_not_debris(tmp_path: Path, world: World) -> None:
    saver = Saver(tmp_path, Retention(2), world)
    save(saver, world, 1)
    partial_dir(tmp_path, 2).mkdir()
    with lagging(tmp_path):
        partial_dir(tmp_path, 2).rmdir()
        save(saver, world, 2, 3)
        assert names(tmp_path) == ["step-00000002", "step-00000003"]


@pytest.mark.slow
def test_room_is_counted_by_manifests(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk just large enough for a continued run: the size of its unlisted checkpoints is known."""
    with lagging(tmp_path):
        saver = Saver(tmp_path, Retention(2), world)
        save(saver, world, 1, 2)
        size = (step_dir(tmp_path, 2) / rank_file(0)).stat().st_size
        usage: Any = shutil.disk_usage(tmp_path)
        for free, fits in ((1.1 * size, True), (0.5 * size, False)):
            monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=int(free)))
            if fits:
                rehearse(fresh_engine(world), tmp_path, 2.0, 2, world)
            else:
                with pytest.raises(RuntimeError, match="GiB free"):
                    rehearse(fresh_engine(world), tmp_path, 2.0, 2, world)


@pytest.mark.slow
def test_models_and_rows_are_found_by_name(tmp_path: Path, world: World) -> None:
    """Those that were written a moment ago."""
    with lagging(tmp_path):
        model = tiny_model("gpt2").to_empty(device="cpu")
        for limit in ("50GB", "1MB"):  # one file, then several and an index
            model.save_pretrained(tmp_path / limit, max_shard_size=limit)
            engine = fresh_engine(world)
            stream(folder_chunks(tmp_path / limit, world), list(engine.pieces()), world)
        rows = write_rows(tmp_path / "rows")
        files = {split: [f"{split}-00000.arrow"] for split in ("train", "eval")}
        (rows / "manifest.json").write_text(json.dumps({"files": files}))
        assert len(Rows(rows, "train")) == 40 and len(Rows(rows, "eval")) == 31
