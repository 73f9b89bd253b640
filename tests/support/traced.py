"""Records with strace which files processes look up and read, and the sizes of the reads."""

import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CALLS = (
    "open,openat,stat,lstat,newfstatat,statx,access,faccessat,faccessat2,readlink,readlinkat,getdents,getdents64,"
    "read,pread64,readv,preadv,preadv2,mmap,write,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat"
)
_STRACE = ("strace", "-ff", "-y", "-ttt", "-s", "0", "-e", f"trace={CALLS}", "-e", "signal=none")
_LINE = re.compile(r"^(?P<time>\d+\.\d+) (?P<call>\w+)\((?P<given>.*)\) += (?P<answer>-?\w+)")


@dataclass(frozen=True)
class Call:
    """One system call that names a file, by its path or by an open file."""

    process: int  # a thread counts as one of its own
    time: float
    name: str
    path: str
    answer: int  # bytes for reads and writes; below 0: failed

    @property
    def is_read(self) -> bool:
        return self.name in ("read", "pread64", "readv", "preadv", "preadv2")


def trace(command: Sequence[str], folder: Path, seconds: float = 280, **options: object) -> list[Call]:
    """Runs a command and returns the calls of it and its children; AssertionError if it fails."""
    folder.mkdir()
    done = subprocess.run(
        [*_STRACE, "--seccomp-bpf", "-o", str(folder / "calls"), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        **options,  # pyright: ignore[reportCallIssue, reportArgumentType]
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return _read(folder)


def watch(process: int, folder: Path, seconds: float) -> list[Call]:
    """Returns the calls of a running process and its children in the next `seconds`."""
    folder.mkdir()
    watched = [word for each in (process, *_descendants(process)) for word in ("-p", str(each))]
    strace = subprocess.Popen([*_STRACE, "-o", str(folder / "calls"), *watched], stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    strace.send_signal(signal.SIGINT)
    strace.wait(30)
    return _read(folder)


def _descendants(process: int) -> Iterator[int]:
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            yield child
            yield from _descendants(child)


def _read(folder: Path) -> list[Call]:
    return sorted((call for file in folder.iterdir() for call in _calls(file)), key=lambda call: call.time)


def _calls(file: Path) -> Iterator[Call]:
    process = int(file.name.rpartition(".")[2])
    for line in file.read_text(errors="replace").splitlines():
        found = _LINE.match(line)
        if found and (path := _path(found["given"])):
            answer = int(found["answer"].partition("<")[0], 0) if found["answer"] != "?" else -1
            yield Call(process, float(found["time"]), found["call"], path, answer)


def _path(given: str) -> str:
    """Returns the file of a call: `3</a/b>, ...` names an open one, `AT_FDCWD</cwd>, "c"` one in a folder."""
    quoted = re.search(r'"((?:[^"\\]|\\.)*)"', given)
    opened = re.search(r"(?:^|, )(?:\d+|AT_FDCWD)<([^>]*)>", given)
    if quoted and quoted[1]:
        return quoted[1] if quoted[1].startswith("/") or not opened else f"{opened[1]}/{quoted[1]}"
    return opened[1] if opened else ""
