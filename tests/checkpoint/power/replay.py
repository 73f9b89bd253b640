"""Replays a record on a disk that may lose power, and tracks what had been committed by then."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from tests.checkpoint.power.disk import ROOT, Disk, Tree
from tests.checkpoint.power.record import Call

Save = tuple[int, int]  # step, attempt


@dataclass(frozen=True)
class Promise:
    """What a run may rely on, whenever the power fails."""

    saved: Save | None = None  # the last one that was acknowledged
    best: Save | None = None
    saving: Save | None = None
    saving_best: bool = False
    left: frozenset[Save] = frozenset()  # newer ones, of a history that the run has left and not yet replaced
    all_saved: tuple[Save, ...] = ()

    def after(self, mark: str, is_first: bool) -> "Promise":
        """Returns what holds after a mark of `saves`.

        A checkpoint is acknowledged when any process says so; what is the best and what has gone, when rank 0 does.
        Another process may say so late, when rank 0 is at the next save already: it speaks of the one that it names.
        """
        kind, *numbers = mark.split("-")
        if not is_first:
            named = kind == "saved" and (int(numbers[0]), int(numbers[1])) == self.saving
            return replace(self, saved=self.saving) if named else self
        if kind == "resume":
            start, _ = map(int, numbers)
            saved = next((save for save in self.all_saved if save[0] == start), None)
            return replace(self, saved=saved, left=frozenset(save for save in self.all_saved if save[0] > start))
        step, attempt, is_best = map(int, numbers)
        save = (step, attempt)
        if kind == "start":
            return replace(self, saving=save, saving_best=bool(is_best))
        others = tuple(each for each in self.all_saved if each not in self.left)
        return Promise(save, save if is_best else self.best, all_saved=(*others, save))


@dataclass
class Replay:
    """A disk, and what programs see of it."""

    top: Path
    disk: Disk = field(default_factory=Disk)
    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    files: dict[int, bytes] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def play(self, call: Call, time: int) -> None:
        if call.name in ("fsync", "fdatasync"):
            if Path(call.paths[0]).is_relative_to(self.top):
                self.disk.sync(self._number(call.paths[0]), call.begun)
        elif call.name == "write":
            number = self._number(call.paths[0])
            self._fill(number, self.files[number] + call.content, time)
        elif call.name.startswith("rename"):
            source, target = map(Path, call.paths)
            assert source.parent == target.parent, "a rename from folder to folder is not modelled"
            self._change(source.parent, time, **{source.name: None, target.name: self._number(source)})
        elif call.name.startswith(("unlink", "rmdir")):
            self._change(Path(call.paths[0]).parent, time, **{Path(call.paths[0]).name: None})
        else:
            self._make(call, time)

    def _make(self, call: Call, time: int) -> None:
        """Makes a folder, a link or an empty file, or empties one."""
        path = Path(call.paths[-1])
        number = self.folders[self._number(path.parent)].get(path.name)
        if number is not None:
            assert "O_TRUNC" in call.flags, f"{call.name} of what is there: {path}"
            return self._fill(number, b"", time)
        number = next(self.numbers)
        if call.name.startswith("mkdir"):
            self.folders[number], self.disk.names[number] = {}, {}
        elif call.name == "symlink":
            self.disk.links[number] = call.paths[0]  # a short link is stored with its name, so both are lost together
        else:
            self.files[number] = self.disk.bytes_[number] = b""
        return self._change(path.parent, time, **{path.name: number})

    def _fill(self, number: int, content: bytes, time: int) -> None:
        self.files[number] = content
        self.disk.new_bytes[number].append((time, content))

    def _change(self, folder: Path, time: int, **names: int | None) -> None:
        number = self._number(folder)
        self.disk.new_names[number].append((time, names))
        for name, child in names.items():
            self.folders[number].pop(name, None)
            if child is not None:
                self.folders[number][name] = child

    def _number(self, path: str | Path) -> int:
        number = ROOT
        for name in Path(path).relative_to(self.top).parts:
            number = self.folders[number][name]
        return number


def moments(calls: list[Call], folder: Path, without: str = "") -> Iterator[tuple[Promise, set[Tree]]]:
    """Yields what holds and how a loss of power may leave the disk, before every sync and around every mark.

    Between two of these a change is only added, and to lose it again is one of the states.
    without: the line, of `lines_that_sync`, whose syncs are left out.
    """
    replay, promise = Replay(folder / "disk"), Promise()
    asked: dict[str, str] = {}  # process -> line of code that requested its next sync
    for time, call in enumerate(calls):
        if Path(call.paths[-1]).parent == folder / "marks":
            _, rank, mark = Path(call.paths[-1]).name.split("-", 2)
            if mark.startswith("sync-"):
                asked[call.process] = mark.removeprefix("sync-")
                continue
            after = promise.after(mark, rank == "0")
            if after != promise:
                states = set(replay.disk.states())
                yield promise, states
                yield after, states
            promise = after
        elif call.name != "fsync":
            replay.play(call, time)
        elif _line(asked[call.process], call) != without:
            yield promise, set(replay.disk.states())
            replay.play(call, time)
    yield promise, set(replay.disk.states())


def lines_that_sync(calls: list[Call], folder: Path) -> list[str]:
    """Returns every line that requested a sync in `folder`: its caller, the line, and the file."""
    names, asked = {}, {}
    for call in calls:
        if Path(call.paths[-1]).parent == folder / "marks" and "-sync-" in call.paths[-1]:
            asked[call.process] = Path(call.paths[-1]).name.split("-", 3)[3]
        elif call.name == "fsync" and Path(call.paths[0]).is_relative_to(folder / "disk"):
            names[_line(asked[call.process], call)] = None
    return list(names)


def _line(asked: str, call: Call) -> str:
    return f"{asked} {re.sub('[0-9]+', 'N', Path(call.paths[0]).name)}"
