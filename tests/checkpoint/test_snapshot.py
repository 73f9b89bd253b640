"""A copy of the state: in pieces, in memory that is kept, and whole when it is said to be, on whichever device."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from distft.checkpoint import save as module
from distft.checkpoint.chunks import Saved, chunks_of, write_file
from distft.checkpoint.retention import Retention
from distft.checkpoint.save import Saver, Snapshot
from distft.runtime.process_group import World
from tests.checkpoint.held import held
from tests.support.accelerator import CUDA_1, stand_in

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


def test_no_piece_is_rounded_up_to_much_more() -> None:
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
