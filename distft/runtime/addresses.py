"""The network addresses of this machine, and a connection to the first that answers of another's.

Trap: where the host name resolves to 127.0.0.1 (Debian writes 127.0.1.1 into /etc/hosts), each node silently trains
alone. So loopback is tried only if the scheduler itself gives it as a node's address.
"""

import ipaddress
import socket
import time
from collections.abc import Sequence

import psutil

_SECONDS_TO_CONNECT = 2.0


class Unreachable(RuntimeError):
    """No address of the first node answers; the message lists the attempts."""


def own_addresses(*given: str) -> list[str]:
    """Returns addresses of this machine, the likeliest first: `given`, those of its name, those of its interfaces.

    given: trusted addresses or names, such as those of the scheduler.
    """
    vouched = [address for name in given for address in _resolved(name)]
    guessed = [*_resolved(socket.gethostname()), *(address for _, address in _of_interfaces())]
    return list(dict.fromkeys([*vouched, *(address for address in guessed if not _is_loopback(address))]))


def is_own(name: str) -> bool:
    """Returns whether a name or address is this machine's."""
    own = {address for _, address in _of_interfaces()}
    return any(address in own or _is_loopback(address) for address in _resolved(name))


def interface_of(address: str) -> str | None:
    """Returns the network interface that has `address`: eth0."""
    own = next((name for name, other in _of_interfaces() if other == address), None)
    loopback = (name for name, other in _of_interfaces() if other in ("127.0.0.1", "::1"))
    return own or (next(loopback, None) if _is_loopback(address) else None)


def reach(addresses: Sequence[str], port: int, seconds: float) -> tuple[str, str]:
    """Returns the first address that answers and this machine's address towards it; Unreachable after `seconds`."""
    deadline, reasons = time.monotonic() + seconds, dict.fromkeys(addresses, "not tried")
    while True:
        for address in addresses:
            try:
                with socket.create_connection((address, port), _SECONDS_TO_CONNECT) as connection:
                    return address, connection.getsockname()[0]
            except OSError as error:
                reasons[address] = str(error)
        if time.monotonic() > deadline:
            tried = "; ".join(f"{address}:{port}: {reason}" for address, reason in reasons.items()) or "no address"
            raise Unreachable(f"cannot reach the first node in {seconds:.0f} s ({tried})")
        time.sleep(0.2)


def _of_interfaces() -> list[tuple[str, str]]:
    families = (socket.AF_INET, socket.AF_INET6)
    found = [
        (family, name, each.address.partition("%")[0])
        for name, every in psutil.net_if_addrs().items()
        for each in every
        for family in families
        if each.family == family
    ]
    routed = [each for each in found if not ipaddress.ip_address(each[2]).is_link_local]
    return [(name, address) for _, name, address in sorted(routed, key=lambda each: families.index(each[0]))]


def _resolved(name: str) -> list[str]:
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
