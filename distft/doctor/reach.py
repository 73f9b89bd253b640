"""Plain connections between every pair of places, so that the pair which cannot hear each other has a name.

Collectives only say that someone did not come.
"""

import socket
import threading
from collections.abc import Mapping

SECONDS_TO_CONNECT = 10
Place = tuple[str, int]  # address and port


def listen(address: str) -> tuple[socket.socket, int]:
    """Returns a socket that takes every connection from now on, and its port."""
    listening = socket.create_server((address, 0), backlog=1024)
    threading.Thread(target=_take_all, args=(listening,), daemon=True).start()
    return listening, listening.getsockname()[1]


def unreachable(places: Mapping[str, Place], seconds: float = SECONDS_TO_CONNECT) -> dict[str, str]:
    """Returns name -> reason of every place that no connection to could be made; all are tried at once."""
    found: dict[str, str] = {}
    tries = [threading.Thread(target=_try, args=(name, *places[name], seconds, found)) for name in places]
    for each in tries:
        each.start()
    for each in tries:
        each.join()
    return dict(sorted(found.items()))


def _try(name: str, address: str, port: int, seconds: float, found: dict[str, str]) -> None:
    try:
        socket.create_connection((address, port), seconds).close()
    except OSError as error:
        found[name] = f"{address}:{port} {error.strerror or error}"


def _take_all(listening: socket.socket) -> None:
    while True:
        try:
            listening.accept()[0].close()
        except OSError:  # it was closed
            return
