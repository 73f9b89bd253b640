"""A damaged index loses nothing: checkpoints are found by their folder names, and the damage is reported."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from distft.checkpoint import retention
from distft.checkpoint.choose import choose
from distft.checkpoint.format import INDEX, damage_of, read_index, step_dir, write_index
from distft.checkpoint.load import find
from distft.checkpoint.retention import Retention
from distft.checkpoint.save import Saver
from distft.runtime.process_group import World
from tests.checkpoint.held import held
from tests.support.alone import alone

STEPS = [3, 4, 5]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with alone() as world:
        yield world


@pytest.fixture(scope="module")
def written(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of STEPS, the best of which is 4."""
    folder: Path = tmp_path_factory.mktemp("written") / "checkpoints"
    saver = Saver(folder, Retention(3), world)
    for step in STEPS:
        saver.start(held({"weight": torch.randn(9)}), step, {}, is_best=step == 4)
    return folder


@pytest.fixture
def checkpoints(written: Path, tmp_path: Path) -> Path:
    """The same, free to be damaged."""
    return shutil.copytree(written, tmp_path / "checkpoints", symlinks=True)


def ways(index: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    whole, other = index.read_bytes(), {"sha256": json.loads(index.read_bytes())["sha256"]}
    for text in (b"", b"\0" * len(whole), b"no json", b"{}", b"[3, 4, 5]", b"null", b'"3"', b"7", whole + whole):
        yield f"{text[:20]!r}", lambda text=text: index.write_bytes(text)
    for steps in (None, 5, "345", [3, 4], [], [3, 4, 5, 6], ["3", "4", "5"], [3.0, 4.0, 5.0], [True]):
        yield f"steps {steps}", lambda steps=steps: index.write_text(json.dumps(other | {"steps": steps}))
    for length in range(len(whole) - 1):  # all but the last line's end
        yield f"cut to {length} bytes", lambda length=length: index.write_bytes(whole[:length])
    for bit in random.Random(0).sample(range(8 * (len(whole) - 1)), 100):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit} flipped", lambda flipped=flipped: index.write_bytes(flipped)
    yield "gone", index.unlink


def says_the_same(index: Path, whole: bytes) -> bool:
    try:
        return json.loads(index.read_bytes()) == json.loads(whole)
    except (ValueError, FileNotFoundError):
        return False


@pytest.mark.slow
def test_a_damaged_index_is_reported_and_the_newest_one_found(
    checkpoints: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    index, mutants = checkpoints / INDEX, 0
    whole = index.read_bytes()
    assert damage_of(checkpoints) == ""
    for way, damage in ways(index):
        damage()
        if says_the_same(index, whole):
            continue  # a flipped bit in a space
        found = find(checkpoints, "auto", world)
        assert found is not None and found.step == 5, way
        assert choose(checkpoints, "best").name == "step-00000004", way
        output = capsys.readouterr().out
        assert str(index) in output and "Using the names of the folders instead: 3, 4, 5" in output, way
        index.write_bytes(whole)
        mutants += 1
    print(f"{mutants} mutants of the index, none believed, nothing lost")
    assert mutants >= 200


def test_the_next_save_repairs_the_index_and_applies_retention(checkpoints: Path, world: World) -> None:
    (checkpoints / INDEX).write_text("")
    saver = Saver(checkpoints, Retention(2), world, start_step=5)
    saver.start(held({"weight": torch.randn(9)}), 6, {})
    assert damage_of(checkpoints) == ""
    assert read_index(checkpoints) == [4, 5, 6]  # 4 is the best


def test_an_empty_folder_needs_no_index(tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        assert read_index(folder) == [] and damage_of(folder) == ""
        assert find(folder, "auto", world) is None
    assert capsys.readouterr().out == ""


def test_other_folder_names_are_not_read_as_checkpoints(checkpoints: Path) -> None:
    (checkpoints / INDEX).unlink()
    for name in ("step-7", "step-00000009.bak", ".step-00000010.partial", "step-x"):
        (checkpoints / name).mkdir()
    assert read_index(checkpoints) == STEPS


@pytest.mark.parametrize("link", ["latest", "best"])
@pytest.mark.parametrize("target", [None, "file", ".", "step-00000099", "../..", "loop"])
def test_a_damaged_link_is_ignored(link: str, target: str | None, checkpoints: Path, world: World) -> None:
    path = checkpoints / link
    path.unlink()
    if target == "file":
        path.write_text("step-00000003")
    elif target:
        path.symlink_to(link if target == "loop" else target)
    found = find(checkpoints, "auto", world)
    assert found is not None and found.step == 5
    assert choose(checkpoints, "latest").name == "step-00000005"
    if link == "best":
        assert retention.best(checkpoints) is None
        with pytest.raises(ValueError, match="at=best: no such checkpoint"):
            choose(checkpoints, "best")
    saver = Saver(checkpoints, Retention(2), world, start_step=5)
    saver.start(held({"weight": torch.randn(9)}), 6, {}, is_best=True)
    assert path.resolve() == step_dir(checkpoints, 6).resolve()


def test_a_run_with_only_damaged_checkpoints_does_not_restart(checkpoints: Path, world: World) -> None:
    for step in STEPS:
        (step_dir(checkpoints, step) / "manifest.json").write_text("{}")
    with pytest.raises(RuntimeError) as caught:
        find(checkpoints, "auto", world)
    for part in ("step-00000005/manifest.json", "Try: checkpoint.resume=never", str(checkpoints)):
        assert part in str(caught.value)
    assert find(checkpoints, "never", world) is None


def test_an_index_whose_checkpoints_were_deleted_starts_over(tmp_path: Path, world: World) -> None:
    write_index(tmp_path, {3, 4})
    assert find(tmp_path, "auto", world) is None
