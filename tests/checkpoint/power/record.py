"""A program's system calls that change names or bytes in a folder, recorded by strace, in the order they ended.

An unknown call that touches the folder is an error, so that none is left out silently.
"""

import codecs
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HANDLES = ("write", "fsync", "fdatasync")
KNOWN = (*HANDLES, *"open openat creat rename renameat renameat2 mkdir mkdirat symlink unlink unlinkat rmdir".split())
OTHERS = "pwrite64 writev pwritev pwritev2 sync_file_range sync syncfs ftruncate truncate fallocate copy_file_range "
OTHERS += "sendfile link linkat symlinkat"
LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)(?:<[^>]*>)?(?: .*)?")
BEGUN = re.compile(r"(\d+) +(\w+\(.*) <unfinished \.\.\.>")
RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)")
ARGUMENT = re.compile(r'(?P<handle>(?:AT_FDCWD|\d+)<[^>]*>)|"(?P<text>(?:[^"\\]|\\.)*)"|(?P<flags>[A-Z][A-Z_|]+)')


@dataclass(frozen=True)
class Call:
    """A system call that succeeded."""

    process: str
    name: str
    paths: tuple[str, ...]  # absolute; of a symlink its target, then its own
    content: bytes  # that was written
    flags: str
    begun: int  # how many calls had ended when it began: what a sync promises is about those


def record(strace: str, trace: Path, module: str, world: int, *arguments: str) -> str:
    """Runs `module` on `world` processes under strace; returns what strace wrote."""
    run = f"from tests.support.ranks import run_ranks; run_ranks({world}, {module!r}, *{arguments!r})"
    calls = f"trace={','.join((*KNOWN, *OTHERS.split()))}"
    command = [strace, "-f", "--seccomp-bpf", "-y", "-s", str(2**20), "-o", str(trace), "-e", calls]
    subprocess.run([*command, sys.executable, "-c", run], check=True)
    return trace.read_text(encoding="latin-1")


def calls_below(trace: str, folder: Path) -> list[Call]:
    """Returns the calls that succeeded and change what is below `folder`, in the order in which they ended."""
    calls: list[Call] = []
    for line, begun in _whole_lines(trace, calls):
        found = LINE.fullmatch(line)
        if found and int(found[4]) >= 0 and str(folder) in line:
            call = _call(found, begun)
            if call and any(Path(path).is_relative_to(folder) for path in call.paths):
                assert call.name in KNOWN, f"{call.name} is not modelled: {line[:200]}"
                calls.append(call)
    return calls


def _whole_lines(trace: str, calls: list[Call]) -> Iterator[tuple[str, int]]:
    """Puts together what other processes' calls cut in two; yields the length of `calls` when each began, too."""
    cut: dict[str, tuple[str, int]] = {}
    for line in trace.splitlines():
        if start := BEGUN.fullmatch(line):
            cut[start[1]] = (f"{start[1]} {start[2]}", len(calls))
        elif rest := RESUMED.fullmatch(line):
            text, begun = cut.pop(rest[1])
            yield text + rest[2], begun
        else:
            yield line, len(calls)


def _call(line: re.Match[str], begun: int) -> Call | None:
    """Returns the call; None for a file that is opened and not changed by that."""
    name, handle, texts, flags = line[2], "", [], ""
    for argument in ARGUMENT.finditer(line[3]):
        if argument["handle"]:
            handle = argument["handle"].partition("<")[2][:-1]
        elif argument["text"] is not None:
            texts.append((handle, bytes(codecs.escape_decode(argument["text"].encode("latin-1"))[0])))
        else:
            flags = argument["flags"]
    if name.startswith("open") and "O_CREAT" not in flags and "O_TRUNC" not in flags:
        return None
    if name in HANDLES:
        content = texts[0][1] if texts else b""
        assert name != "write" or len(content) == int(line[4]), f"a write was cut short: {line[0][:200]}"
        return Call(line[1], name, (handle,), content, flags, begun)
    paths = [text.decode() if name == "symlink" else str(Path(base) / text.decode()) for base, text in texts]
    return Call(line[1], name, tuple(paths), b"", flags, begun)
