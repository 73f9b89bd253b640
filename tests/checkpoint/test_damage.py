"""No damaged checkpoint is loaded silently: each file, damaged in each way, is named (REL-12)."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distft.checkpoint.format import (
    MANIFEST,
    Damaged,
    check_all,
    rank_file,
    read_manifest,
    step_dir,
    write_index,
    write_manifest,
)
from distft.checkpoint.load import Checkpoint
from tests.support.ranks import run_ranks
from tests.support.trained import MAIN, checkpoint_of

pytestmark = pytest.mark.slow
FILES = [MANIFEST, rank_file(0), rank_file(1)]
FLIPS = 66  # bits flipped in each file, one at a time


@pytest.fixture
def good(trained: Any, tmp_path: Path) -> Path:
    """A whole checkpoint of two processes, free to be damaged."""
    return shutil.copytree(checkpoint_of(trained["fsdp", MAIN, 2, 2]), tmp_path / "step-00000005")


def ways(file: Path, other: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yields what can happen to a file; `other` is the same file of another checkpoint."""
    whole = file.read_bytes()
    yield "zero bytes", lambda: file.write_bytes(b"")
    yield "half of it", lambda: file.write_bytes(whole[: len(whole) // 2])
    yield "one byte short", lambda: file.write_bytes(whole[:-1])
    yield "one byte more", lambda: file.write_bytes(whole + b"\0")
    yield "deleted", file.unlink
    yield "all zeros", lambda: file.write_bytes(bytes(len(whole)))
    yield "of another checkpoint", lambda: shutil.copy(other, file)
    random.seed(file.name)
    for bit in random.sample(range(8 * len(whole)), FLIPS):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit} flipped", lambda flipped=flipped: file.write_bytes(flipped)


def test_every_damage_is_detected_with_its_file(good: Path, trained: Any) -> None:
    check_all(good)
    other, mutants = checkpoint_of(trained["zero2", MAIN, 2, 2]), 0
    for name in FILES:
        whole = (good / name).read_bytes()
        for way, damage in ways(good / name, other / name):
            damage()
            if name == MANIFEST and (good / name).is_file() and same_text(good / name, whole):
                continue  # a flipped bit in the spaces between: the same manifest
            with pytest.raises(Damaged) as caught:
                check_all(good)
            # a whole foreign manifest is detected by the first file that it does not describe
            assert name in str(caught.value) or (name == MANIFEST and way == "of another checkpoint"), way
            (good / name).write_bytes(whole)
            mutants += 1
    check_all(good)
    print(f"{mutants} mutants, none loaded")
    assert mutants >= 200


def same_text(file: Path, whole: bytes) -> bool:
    try:
        return json.loads(file.read_bytes()) == json.loads(whole)
    except ValueError:
        return False


def test_a_changed_shape_or_step_in_the_manifest_is_detected(good: Path) -> None:
    text = (good / MANIFEST).read_text()
    (good / MANIFEST).write_text(text.replace('"step": 5', '"step": 4'))
    with pytest.raises(Damaged, match="manifest.json is damaged"):
        read_manifest(good)


def test_a_checkpoint_of_another_version_is_refused(good: Path) -> None:
    body = read_manifest(good)
    write_manifest(good, body | {"format": 99})
    with pytest.raises(Damaged, match="manifest.json has format 99, this version of distft reads"):
        Checkpoint(good)


def test_all_processes_agree_on_the_newest_whole_one(good: Path, tmp_path: Path) -> None:
    """Rank 1 alone sees that its file is damaged; both pass the checkpoint over, and neither hangs."""
    runs = tmp_path / "checkpoints"
    for step in (3, 4, 5):
        shutil.copytree(good, step_dir(runs, step))
    write_index(runs, {3, 4, 5})
    (step_dir(runs, 5) / MANIFEST).unlink()
    file = step_dir(runs, 4) / rank_file(1)
    file.write_bytes(file.read_bytes()[:-1])
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = [
        {"find": str(runs), "resume": "auto"},
        {"find": str(runs), "resume": str(step_dir(runs, 4))},
        {"find": str(runs), "resume": "never"},
        {"find": str(empty), "resume": "auto"},
    ]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    auto, named, never, nothing = run_ranks(2, "tests.support.train_cases", str(tmp_path / "cases.json"))
    assert auto["found"] == ["step-00000003"] * 2
    assert [str(file) in text and "its manifest says" in text for text in named["found"]] == [True, True]
    assert never["found"] == nothing["found"] == ["none"] * 2
