"""The ranks that load a checkpoint verify it block by block, so each byte is read once."""

import random
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from distft.checkpoint.format import check_all, rank_file, read_manifest, step_dir, write_index
from distft.checkpoint.load import Checkpoint, find, restore
from distft.checkpoint.retention import Retention
from distft.checkpoint.save import Saver
from distft.models.init import FreshWeights
from distft.runtime.process_group import World
from distft.tensors import integrity
from distft.tensors import streaming as streaming
from distft.tensors.streaming import fill
from tests.support.alone import alone
from tests.support.train_cases import make_engine, tiny_model

CASE: dict[str, Any] = {"strategy": "ddp", "model": "gpt2"}
BLOCK = 512 * 1024


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with alone() as world:
        yield world


@pytest.fixture(scope="module")
def written(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Checkpoints of steps 3 and 4, with other weights and moments each, in blocks of BLOCK."""
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integrity, "BLOCK", BLOCK)
        patch.setattr(streaming, "BLOCK", BLOCK)
        saver = Saver(folder, Retention(9), world)
        for step in (3, 4):
            saver.start(stepped_engine(world, step), step, {})
        yield folder


@pytest.fixture
def checkpoints(written: Path, tmp_path: Path) -> Path:
    """The same, free to be damaged."""
    return shutil.copytree(written, tmp_path / "checkpoints", symlinks=True)


def fresh_engine(world: World) -> Any:
    engine = make_engine(CASE, world)
    fill(engine.pieces(), FreshWeights(tiny_model(CASE["model"]), 0))
    return engine


def stepped_engine(world: World, step: int) -> Any:
    engine = fresh_engine(world)
    torch.manual_seed(step)
    for piece in engine.pieces():
        piece.owner.grad = torch.randn_like(piece.owner)
    engine.optimizer.step()
    return engine


def state_of(engine: Any) -> dict[str, torch.Tensor]:
    state = {piece.name: piece.data().clone() for piece in engine.pieces()}
    for piece in engine.pieces():
        state |= {f"{piece.name} {k}": v.clone() for k, v in engine.optimizer.state.get(piece.owner, {}).items()}
    return state


def flip(file: Path, byte: int) -> None:
    content = bytearray(file.read_bytes())
    content[byte] ^= 1
    file.write_bytes(content)


@pytest.mark.slow
def test_a_flipped_bit_in_any_block_skips_the_checkpoint(
    checkpoints: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """And tensors that were already filled are filled again from the older one, bit-equal."""
    file = step_dir(checkpoints, 4) / rank_file(0)
    whole, blocks = file.read_bytes(), read_manifest(file.parent)["files"][0]["xxh3_128"]
    header = 8 + int.from_bytes(whole[:8], "little")
    starts = [0, *range(header, len(whole), BLOCK)]
    assert len(blocks) == len(starts) > 5
    good, places = state_of(stepped_engine(world, 3)), random.Random(0)
    for start, stop in zip(starts, [header, *starts[2:], len(whole)], strict=True):
        flip(file, places.randrange(start, stop))
        engine = fresh_engine(world)
        found = find(checkpoints, "auto", world, partial(restore, engine))
        assert found is not None and found.step == 3
        assert f"skipped {file.parent}: {file} is" in capsys.readouterr().out
        restored = state_of(engine)
        assert restored.keys() == good.keys() and all(torch.equal(restored[key], good[key]) for key in good)
        file.write_bytes(whole)
    check_all(file.parent)


@pytest.mark.slow
def test_when_all_are_damaged_the_optimizer_is_reset(checkpoints: Path, world: World) -> None:
    for step in (3, 4):
        flip(step_dir(checkpoints, step) / rank_file(0), -1)
    engine = fresh_engine(world)
    with pytest.raises(RuntimeError, match="no checkpoint in .* can be resumed"):
        find(checkpoints, "auto", world, partial(restore, engine))
    assert not engine.optimizer.state


@pytest.mark.slow
def test_a_named_damaged_checkpoint_is_refused_with_its_block(checkpoints: Path, world: World) -> None:
    folder = step_dir(checkpoints, 4)
    flip(folder / rank_file(0), -1)
    last = len(read_manifest(folder)["files"][0]["xxh3_128"]) - 2
    with pytest.raises(RuntimeError, match=f"cannot be resumed: .*{rank_file(0)}.* block {last} of its data differs"):
        find(checkpoints, str(folder), world)


def test_blocks_that_no_rank_needs_are_checked(checkpoints: Path, world: World) -> None:
    """`find` alone fills nothing and reads everything."""
    flip(step_dir(checkpoints, 4) / rank_file(0), -1)
    found = find(checkpoints, "auto", world)
    assert found is not None and found.step == 3


def test_a_wrong_file_size_is_reported_without_reading(checkpoints: Path, world: World) -> None:
    file = step_dir(checkpoints, 4) / rank_file(0)
    with file.open("ab") as handle:
        handle.write(b"\0")
    with pytest.raises(integrity.Damaged, match=r"rank-00000.safetensors has \d+ bytes, its manifest says \d+"):
        Checkpoint(file.parent, world)


def test_a_listed_but_missing_checkpoint_is_skipped(
    checkpoints: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    write_index(checkpoints, {3, 4, 5})
    found = find(checkpoints, "auto", world)
    assert found is not None and found.step == 4
    assert "step-00000005: it has no manifest.json" in capsys.readouterr().out


@pytest.mark.parametrize("lengths", [[5], [BLOCK], [BLOCK - 1, 2], [3 * BLOCK + 1], [1, BLOCK, BLOCK - 1, 7]])
def test_seals_do_not_depend_on_how_the_bytes_came(lengths: list[int], written: Path) -> None:
    data = random.Random(1).randbytes(sum(lengths))
    writer, at = integrity.ChecksumWriter(), 0
    for length in lengths:
        writer.add(memoryview(data)[at : at + length])
        at += length
    assert writer.blocks() == [integrity.block_hash(data[i : i + BLOCK]) for i in range(0, len(data), BLOCK)]
