"""Which network interface, and which address of this machine, processes use to hear each other."""

import fcntl
import ipaddress
import os
import platform
import socket
import struct
from collections.abc import Iterator

_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B
CHOOSING = {"nccl": "NCCL_SOCKET_IFNAME", "gloo": "GLOO_SOCKET_IFNAME"}


def interfaces() -> Iterator[tuple[str, ipaddress.IPv4Interface]]:
    """Yields name and address, with its network, of every interface that has one."""
    for _, name in socket.if_nameindex():
        try:
            yield name, ipaddress.IPv4Interface(f"{_asked(name, _SIOCGIFADDR)}/{_asked(name, _SIOCGIFNETMASK)}")
        except OSError:  # it is down, or speaks no IPv4
            continue


def own_address(backend: str) -> tuple[str, str]:
    """Returns the interface that a backend will use and this machine's address on it; OSError without such a one.

    It is the one that the backend's variable names, else that of the address which the host name stands for.
    """
    asked = os.environ.get(CHOOSING.get(backend, ""), "").lstrip("=^").partition(",")[0]
    there = dict(interfaces())
    if asked and backend == "gloo":
        if asked not in there:
            raise OSError(f"{CHOOSING[backend]}={asked}: there is no such interface, only {', '.join(there)}")
        return asked, str(there[asked].ip)
    address = socket.gethostbyname(platform.node())
    own = [name for name, each in there.items() if ipaddress.ip_address(address) in each.network]
    return (own[0] if own else f"of {address}"), address


def _asked(name: str, what: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket.fileno(), what, struct.pack("256s", name[:15].encode()))
    return socket.inet_ntoa(answer[20:24])
