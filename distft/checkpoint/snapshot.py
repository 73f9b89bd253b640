"""A copy of the state in host memory, so that it can be written while training goes on; the memory is kept.

On accelerators it is pinned: only then do copies run beside the device's work. It is taken in pieces, because torch's
host allocator rounds each up to a power of two: one of 96 GB would take 128.
Trap: a thread's current device is device 0, whichever its process works on, so what a thread waits for is the event
that was recorded on the stream of its copies, never "the device".
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from distft.checkpoint.chunks import Saved

PIECE = 2**26  # numbers: 256 MiB


class Snapshot:
    """Holds one copy of a process's share of the state."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pieces: list[torch.Tensor] = []  # [PIECE] each, but the last

    def warm(self, numbers: int) -> None:
        """Makes room for so many numbers and touches its pages: a first save that had to fault them in would keep
        training waiting several times as long."""
        missing = numbers - sum(piece.numel() for piece in self.pieces)
        if missing > 0 and self.pieces and self.pieces[-1].numel() < PIECE:
            missing += self.pieces.pop().numel()
        while missing > 0:
            piece = torch.empty(min(missing, PIECE), pin_memory=self.device.type != "cpu")
            piece.numpy().fill(0)
            self.pieces.append(piece)
            missing -= piece.numel()

    def take(self, chunks: Sequence[Saved], ready: torch.Event | None) -> list[Saved]:
        """Returns the chunks with copies of their elements, valid until the next call; it waits for the copies.

        ready: recorded by the thread that trains when the state was whole; None on a CPU.
        """
        self.warm(sum(chunk.count for chunk in chunks))
        if ready is None:
            return self._copy(chunks)
        with torch.Stream(self.device) as beside:  # the copies run while the device computes
            beside.wait_event(ready)
            copies = self._copy(chunks)
            done = torch.Event(self.device)
            done.record(beside)
        done.synchronize()
        return copies

    def _copy(self, chunks: Sequence[Saved]) -> list[Saved]:
        copies, at, index = [], 0, 0
        for chunk in chunks:
            places = []
            for part in chunk.data:
                while part.numel():
                    if at == self.pieces[index].numel():
                        at, index = 0, index + 1
                    place = self.pieces[index][at : at + part.numel()]
                    given, part = part[: place.numel()], part[place.numel() :]
                    if given.device.type == "cpu":  # one thread fills the memory's width, OpenMP's would wait for cores
                        place.numpy()[:] = given.float().numpy()
                    else:
                        place.copy_(given, non_blocking=True)
                    places.append(place)
                    at += place.numel()
            copies.append(replace(chunk, data=tuple(places)))
        return copies
