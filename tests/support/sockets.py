"""Records with strace the addresses of every socket that processes connect, bind or send from."""

import ipaddress
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

_CALLS = "connect,bind,sendto,sendmsg,sendmmsg"
_STRACE = ("strace", "-ff", "--seccomp-bpf", "-s", "64", "-e", f"trace={_CALLS}", "-e", "signal=none")
_CALL = re.compile(r"^(?P<call>\w+)\((?P<file>\d+), ")
_INET = re.compile(r'sin6?_port=htons\((?P<port>\d+)\).*?"(?P<address>[0-9a-fA-F.:]+)"')
_UNIX = re.compile(r'sa_family=AF_UNIX, sun_path=(?P<path>@?"[^"]*")')
DNS = 53


@dataclass(frozen=True)
class Talk:
    """One call with an address: an internet address with its port, or a local path."""

    process: int
    call: str
    address: str
    port: int | None
    question: str = ""  # what a name server is asked, as strace prints it

    @property
    def is_local(self) -> bool:
        """Whether the address is on this machine: loopback, a socket file, or a bind to all addresses."""
        if self.port is None:
            return True
        found = ipaddress.ip_address(self.address)
        found = getattr(found, "ipv4_mapped", None) or found
        return found.is_loopback or (self.call == "bind" and found.is_unspecified)


def talks(command: Sequence[str], folder: Path, **options: object) -> list[Talk]:
    """Runs a command and returns the addresses that it and its children use; AssertionError if it fails."""
    folder.mkdir()
    done = subprocess.run(
        [*_STRACE, "-o", str(folder / "calls"), *command], capture_output=True, text=True, check=False, **options
    )  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert done.returncode == 0, done.stderr[-3000:]
    return [talk for file in sorted(folder.iterdir()) for talk in _read(file)]


def _read(file: Path) -> Iterator[Talk]:
    process = int(file.name.rpartition(".")[2])
    lookups: dict[str, Talk] = {}  # by the open socket
    for line in file.read_text(errors="replace").splitlines():
        called = _CALL.match(line)
        if called and called["call"] in ("bind", "connect"):  # the number of a closed socket is used again
            lookups.pop(called["file"], None)
        if called and (found := _INET.search(line)):
            talk = Talk(process, called["call"], found["address"], int(found["port"]))
            if talk.port == DNS:
                lookups[called["file"]] = talk
            else:
                yield talk
        elif called and (found := _UNIX.search(line)):
            yield Talk(process, called["call"], found["path"], None)
        elif called and called["call"].startswith("send") and called["file"] in lookups:
            yield replace(lookups[called["file"]], question=line)
