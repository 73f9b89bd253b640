"""Several machines without a scheduler: the same command is typed on each, and launcher.rendezvous names the first.

Trap: the first machine must not be told by who comes first, as the command may be typed anywhere first. It is the one
that has the address.
"""

import socket
import time
from dataclasses import dataclass

from distft.launchers.addresses import Unreachable, is_own, reach
from distft.run import RunFolder

SECONDS_TO_WAIT = 60.0
_SECONDS_TO_SHOW = 15.0  # what another machine has written, on a shared disk


@dataclass(frozen=True)
class Place:
    """Where the machines of a run meet."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def place_of(text: str) -> Place:
    """Returns what HOST:PORT says; ValueError when it says something else."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"launcher.rendezvous={text} is not HOST:PORT. Try: {host or text or 'node1'}:29500")
    return Place(host.strip("[]"), int(port))


def is_first(place: Place) -> bool:
    """Tells whether this machine is to hold the meeting: it has the address, and nothing listens there yet."""
    if not is_own(place.host):
        return False
    with socket.socket(socket.AF_INET6 if ":" in place.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", place.port))
        except OSError:
            return False
    return True


def wait_for_first(place: Place, run: RunFolder) -> None:
    """Returns when the first machine has begun the run; ValueError when it does not, or its folder is not seen here."""
    try:
        reach([place.host], place.port, SECONDS_TO_WAIT)
    except Unreachable as error:
        rule = "the same command must be typed on the machine that has this address"
        raise ValueError(f"launcher.rendezvous={place}: {rule}; {error}. Try: another address, or port") from error
    deadline = time.monotonic() + _SECONDS_TO_SHOW
    while run.read_status()["state"] not in ("pending", "running"):
        if time.monotonic() > deadline:
            raise ValueError(
                f"launcher.rendezvous={place} answers, and {run.path} is not under way here: another program has that "
                "port, or the machines do not share this folder. Try: another port, or runs_dir on a shared disk"
            )
        time.sleep(0.2)
