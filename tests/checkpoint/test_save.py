"""Background saves: one at a time, the last one awaited, errors reported to all processes at the next step.

The copy of the state is made in pieces, in reused memory, and is complete when reported, on any device.
"""

import json
import threading
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from distft.checkpoint import save
from distft.checkpoint import save as module
from distft.checkpoint.chunks import Saved, chunks_of, write_file
from distft.checkpoint.retention import Retention, latest
from distft.checkpoint.save import Saver, Snapshot
from distft.runtime.process_group import World
from tests.checkpoint.held import held
from tests.checkpoint.overlapped import EVERY, STEPS
from tests.support.accelerator import CUDA_1, stand_in
from tests.support.alone import alone
from tests.support.ranks import run_ranks

FAILING = 4
NAN = float("nan")
LOSSES = [3.0, NAN, 2.5, 2.49, 2.48, 2.485, 2.0]  # of steps 0, 1, ...; only that of 2 is better by 0.1
EVALUATED = {"losses": LOSSES, "patience": 3, "every": 4}
CASES = {
    "good": {"slow": 1.0},
    "continue": {"failing": FAILING, "slow": 1.0},
    "stop": {"failing": FAILING, "slow": 1.0, "checkpoint": {"on_failure": "stop"}},
    "last": {"failing": STEPS, "slow": 1.0},
    "best": EVALUATED,
    "best later": EVALUATED | {"save_best": False},
    "best lost": EVALUATED | {"failing": FAILING},
    "none better": {"losses": [1.0, 2.0, NAN], "patience": 2, "every": 4},
    "nan": {"losses": [NAN, NAN], "patience": 2, "every": 4},
    "clock": {"every": None, "checkpoint": {"every_minutes": 1e-9}},
}


@pytest.fixture(scope="module")
def seen(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each of two processes saw, by case."""
    folder, cases = tmp_path_factory.mktemp("runs"), json.dumps(list(CASES.values()))
    ranks = run_ranks(2, "tests.checkpoint.overlapped", str(rows), str(folder), cases)
    return dict(zip(CASES, zip(*ranks, strict=True), strict=True))


@pytest.mark.slow
def test_one_save_at_a_time_and_the_last_one_is_awaited(seen: Any) -> None:
    """A write lasts longer than the steps between two saves."""
    for rank in seen["good"]:
        assert rank["most"] == 1
        assert rank["latest"] == f"step-{STEPS:08d}" and rank["raised"] == ""


@pytest.mark.slow
def test_a_write_error_is_reported_while_other_ranks_still_write(seen: Any) -> None:
    text = "rank-00001.safetensors'. Training goes on"
    for rank in seen["continue"]:
        said = {int(step): text for step, text in rank["said"].items()}
        assert said[FAILING] == "" and FAILING % EVERY == 0
        assert f"step-{FAILING:08d} could not be saved: [Errno 5] Input/output error" in said[FAILING + 1]
        assert text in said[FAILING + 1] and said[FAILING + 1] == said[STEPS - 1]
        assert rank["latest"] == f"step-{STEPS:08d}" and rank["raised"] == ""


@pytest.mark.slow
def test_a_failed_required_save_ends_the_run_at_the_next_step(seen: Any) -> None:
    for rank in seen["stop"]:
        assert max(map(int, rank["said"])) + 1 == FAILING + 1, "the step after the save is the last one"
        assert "Input/output error" in rank["raised"] and "rank-00001.safetensors" in rank["raised"]
        assert rank["latest"] == f"step-{FAILING - EVERY:08d}"


@pytest.mark.slow
def test_the_last_save_must_always_succeed(seen: Any) -> None:
    for rank in seen["last"]:
        assert f"step-{STEPS:08d} could not be saved" in rank["raised"]
        assert rank["latest"] == f"step-{STEPS - EVERY:08d}"


@pytest.mark.slow
def test_a_new_best_is_saved_at_once_and_stopping_uses_committed(seen: Any) -> None:
    """Rank 1 sees the opposite of rank 0's losses, which decide. Step 4 is due and the best: it is saved once."""
    for rank in seen["best"]:
        assert rank["saved"] == [2, 3, 4, 5] and rank["best"] == "step-00000004"
        assert rank["ended"] == [["stopped_early", 5], ["stopped_early", 5]], "and so is a run killed right after it"
        assert rank["held_out_loss"] == 2.485
    assert seen["best"][0]["best_known"] == [4, 2.48]


@pytest.mark.slow
def test_the_best_is_one_of_the_saved_checkpoints(seen: Any) -> None:
    for rank in seen["best later"]:
        assert rank["saved"] == [4, 5] and rank["best"] == "step-00000004"


@pytest.mark.slow
def test_a_best_that_could_not_be_written_is_not_the_best(seen: Any) -> None:
    for rank in seen["best lost"]:
        assert rank["saved"] == [2, 3, 4, 5] and rank["best"] == "step-00000005"


@pytest.mark.slow
def test_without_an_improved_step_there_is_no_best(seen: Any) -> None:
    for rank in seen["none better"]:
        assert rank["best"] is None and rank["saved"] == [2] and rank["held_out_loss"] is None
    assert seen["none better"][0]["best_known"] == [0, 1.0]
    assert [rank["best"] for rank in seen["nan"]] == [None, None] and seen["nan"][0]["best_known"] is None
    assert [rank["ended"][0] for rank in seen["nan"]] == [["stopped_early", 1]] * 2


@pytest.mark.slow
def test_minutes_are_counted_by_rank_0_for_all(seen: Any) -> None:
    for rank in seen["clock"]:
        assert rank["saved"] == list(range(1, STEPS + 1)) and rank["best"] is None


@pytest.mark.slow
def test_training_does_not_wait_for_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, real, seen = Event(), save.publish, []

    def publish(*arguments: Any) -> Path:
        seen.append(go_on.wait(10))
        return real(*arguments)

    monkeypatch.setattr(save, "publish", publish)
    with alone() as world:
        saving = Saver(tmp_path, Retention(1), world, snapshot=Snapshot(world.device))
        saving.start(held({"weight": torch.randn(9)}), 1, {})
        saving.wait_copied()
        saving.advance()  # all have written
        assert not saving.is_written and saving.saved_step == 0 and latest(tmp_path) is None
        go_on.set()
        saving.finish()
    assert seen == [True] and saving.saved_step == 1 and latest(tmp_path) == tmp_path / "step-00000001"


CPU = torch.device("cpu")


def chunks() -> list[Saved]:
    return list(chunks_of(held({"a": torch.randn(23), "b": torch.randn(4, 5), "c": torch.randn(0 + 1)})))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 10)


def test_a_copy_in_pieces_is_written_like_the_state_itself(small_pieces: None, tmp_path: Path) -> None:
    live = chunks()
    copies = Snapshot(CPU).take(live, None)
    assert [copy.count for copy in copies] == [chunk.count for chunk in live]
    assert max(len(copy.data) for copy in copies) > 2, "a chunk lies in several pieces"
    expected = write_file(tmp_path / "live", live)
    for copy, chunk in zip(copies, live, strict=True):
        assert torch.equal(torch.cat(copy.data), torch.cat(chunk.data))
        for part in chunk.data:
            part.zero_()  # training goes on
    assert write_file(tmp_path / "copy", copies) == expected | {"name": "copy"}


def test_memory_is_allocated_once_and_in_pieces(small_pieces: None) -> None:
    kept = Snapshot(CPU)
    kept.reserve(25)
    assert [piece.numel() for piece in kept.pieces] == [10, 10, 5]
    places = [piece.data_ptr() for piece in kept.pieces]
    kept.reserve(12)
    kept.take(chunks()[:1], None)
    assert [piece.data_ptr() for piece in kept.pieces] == places
    kept.reserve(31)
    assert [piece.numel() for piece in kept.pieces] == [10, 10, 10, 1]
    assert [piece.data_ptr() for piece in kept.pieces[:2]] == places[:2]


def test_pieces_are_not_rounded_up_much() -> None:
    """torch's host allocator takes the next power of two."""
    assert module.PIECE & (module.PIECE - 1) == 0 and 4 * module.PIECE <= 2**28


class Stream:
    """Stands in for a device's stream: does its copies when an event of it is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.events = device, list[str]()

    def __enter__(self) -> "Stream":
        self.events.append("entered")
        return self

    def __exit__(self, *_: Any) -> None:
        self.events.append("left")

    def wait_event(self, event: Any) -> None:
        self.events.append("waits for the state")


def test_a_copy_waits_for_its_own_stream_and_for_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.accelerator.synchronize() waits for the thread's current device, which in a new thread is device 0."""
    stand_in(monkeypatch)
    streams: list[Stream] = []
    waited: list[int] = []

    def stream(device: torch.device) -> Stream:
        streams.append(Stream(device))
        return streams[-1]

    def record(self: Any, on: Any = None) -> None:
        self.stream = on

    def wait(self: Any) -> None:
        assert self.stream is streams[-1] and "left" not in self.stream.events[:-1]
        waited.append(1)

    monkeypatch.setattr(torch, "Stream", stream)
    monkeypatch.setattr(torch.Event, "record", record)
    monkeypatch.setattr(torch.Event, "synchronize", wait, raising=False)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda *_: pytest.fail("device 0 was waited for"))
    monkeypatch.setattr(module.torch, "empty", lambda size, pin_memory: torch.zeros(size))
    live = chunks()
    copies = Snapshot(CUDA_1).take(live, torch.Event(CUDA_1))
    assert streams[0].device == CUDA_1 and streams[0].events == ["entered", "waits for the state", "left"]
    assert waited == [1]
    assert all(torch.equal(torch.cat(mine.data), torch.cat(its.data)) for mine, its in zip(copies, live, strict=True))


def test_the_writer_works_on_the_device_of_its_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[tuple[int, str]] = []
    entering = lambda index: entered.append((index, threading.current_thread().name))  # noqa: E731
    monkeypatch.setattr(torch.accelerator, "set_device_index", entering)
    saver = Saver(tmp_path, Retention(1), World(1, 2, 1, 2, CUDA_1), snapshot=Snapshot(CUDA_1))
    assert saver.writer is not None
    saver.writer.submit(lambda: None).result()
    assert entered == [(1, "writer_0")]
