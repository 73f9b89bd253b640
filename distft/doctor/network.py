"""Checks of the network: interfaces, addresses, ports, the Hugging Face hub.

Collectives only report that a peer is missing; these checks find out why.

The token is neither shown nor sent: one HEAD request without it tests whether the hub can be reached.
"""

import fcntl
import ipaddress
import os
import platform
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from distft.doctor.finding import Ended, Finding, ask_program
from distft.runtime.environment import redact

_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B
CHOOSING = {"nccl": "NCCL_SOCKET_IFNAME", "gloo": "GLOO_SOCKET_IFNAME"}


def interfaces() -> Iterator[tuple[str, ipaddress.IPv4Interface]]:
    """Yields name and address, with its network, of every interface that has an IPv4 address."""
    for _, name in socket.if_nameindex():
        try:
            yield name, ipaddress.IPv4Interface(f"{_address(name, _SIOCGIFADDR)}/{_address(name, _SIOCGIFNETMASK)}")
        except OSError:  # it is down, or has no IPv4 address
            continue


def own_address(backend: str) -> tuple[str, str]:
    """Returns the interface that a backend will use and this machine's address on it; OSError without one.

    It is the one in the backend's variable, else that of the address of the host name.
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


def _address(name: str, what: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket.fileno(), what, struct.pack("256s", name[:15].encode()))
    return socket.inet_ntoa(answer[20:24])


SECONDS_TO_CONNECT = 10
Place = tuple[str, int]  # address and port


def listen(address: str) -> tuple[socket.socket, int]:
    """Returns a socket that accepts every connection, and its port."""
    listening = socket.create_server((address, 0), backlog=1024)
    threading.Thread(target=_take_all, args=(listening,), daemon=True).start()
    return listening, listening.getsockname()[1]


def unreachable(places: Mapping[str, Place], seconds: float = SECONDS_TO_CONNECT) -> dict[str, str]:
    """Connects to all places at once; returns name -> reason of those that failed."""
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


@dataclass(frozen=True)
class AllReduce:
    """The result of the all-reduce program."""

    failed: str = ""  # the failures as text; empty on success
    backend: str = "no backend"
    interface: str = "none"
    processes: int = 0
    seconds: float = 0.0


SECONDS_TO_REDUCE = 60
SLOW_LOOKUP_SECONDS = 1.0


def check_host_name(nodes: int) -> Iterator[Finding]:
    """Checks what this machine's host name resolves to: other nodes connect to it by that name."""
    name = platform.node()
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})
    except OSError as error:
        remedy = f"a line `ADDRESS {name}` in /etc/hosts, or in the cluster's name service"
        state = "problem" if nodes > 1 else "warning"
        yield Finding("host name", state, f"{name} does not resolve: {error.strerror or error}", remedy)
        return
    seen = f"{name} resolves to {', '.join(found)}"
    loopback = all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in found)
    if nodes > 1 and loopback:
        remedy = f"name {name} with its network address in /etc/hosts; other nodes cannot reach a loopback address"
        yield Finding("host name", "warning", seen, remedy)
    else:
        yield Finding("host name", "ok", seen)


def check_name_server() -> Iterator[Finding]:
    """Checks how long a reverse lookup of the loopback address takes.

    torch's TCPStore makes one for each connection of a rendezvous, for its logs, and waits for the answer.
    """
    started = time.monotonic()
    with suppress(OSError):
        socket.getnameinfo(("::ffff:127.0.0.1", 0), 0)
    seconds = time.monotonic() - started
    seen = f"a lookup of 127.0.0.1 takes {seconds:.2f} s"
    if seconds < SLOW_LOOKUP_SECONDS:
        yield Finding("name server", "ok", seen)
    else:
        remedy = "a nameserver that answers in /etc/resolv.conf, or there: options timeout:1 attempts:1"
        yield Finding("name server", "warning", f"{seen}, and torch makes several of them when a run starts", remedy)


def check_port() -> Iterator[Finding]:
    """Checks that a process can bind a port and another one on this machine connect to it."""
    with socket.socket() as listening:
        try:
            listening.bind(("127.0.0.1", 0))
            listening.listen(1)
        except OSError as error:
            reserved = "sysctl net.ipv4.ip_local_port_range (its usual value: 32768 60999), ss -tan | wc -l"
            yield Finding("port", "problem", f"no free port can be bound: {error.strerror}", reserved)
            return
        port = listening.getsockname()[1]
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except OSError as error:
            seen = f"127.0.0.1:{port} was bound, but not reached: {error.strerror or error}"
            yield Finding("port", "problem", seen, "ip link set lo up, and no firewall rule for lo: iptables -L")
            return
    yield Finding("port", "ok", "a free one of 127.0.0.1 was bound and reached")


def check_all_reduce(seconds: float = SECONDS_TO_REDUCE) -> Iterator[Finding]:
    """Checks that two processes on this machine, started like a run, can all-reduce a tensor."""
    try:
        result = AllReduce(**ask_program("distft.doctor.all_reduce", "--nodes", "1", seconds=seconds))
    except Ended as ended:
        remedy = f"unset {interface_variables()}" if interface_variables() else "fix the findings above first"
        yield Finding("all-reduce", "problem", f"two processes on {platform.node()} did not: {ended}", remedy)
        return
    yield reduced(result)


def reduced(result: AllReduce) -> Finding:
    """Returns the finding for the result of the all-reduce program."""
    over = f"over {result.backend}, interface {result.interface}"
    if result.failed:
        remedy = f"GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the interface between them: {list_interfaces()}"
        return Finding("all-reduce", "problem", f"{result.failed} {over}", remedy)
    return Finding("all-reduce", "ok", f"{result.processes} processes {over}, {result.seconds:.2f} s")


def interface_variables() -> str:
    """Returns the variables that are set and choose an interface."""
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
    return " ".join(name for name in names if name in os.environ)


def list_interfaces() -> str:
    return " ".join(name for _, name in socket.if_nameindex())


_SECONDS = 5
_TRUE = {"1", "ON", "YES", "TRUE"}  # as huggingface_hub reads them


def check_hub(variables: Mapping[str, str] = os.environ, seconds: float = _SECONDS) -> Iterator[Finding]:
    """Checks that the hub can be reached; offline, nothing is sent."""
    token = "a token is there" if has_token(variables) else "no token"
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if variables.get(name, "").upper() in _TRUE:
            yield Finding("hub", "ok", f"offline by {name}={variables[name]}: only what is here is used; {token}")
            return
    endpoint = variables.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    offline = "or HF_HUB_OFFLINE=1 where only what is here is used"
    code, seen = _head(endpoint, seconds)
    seen = f"{redact(endpoint)} {seen}; {token}"
    if code is None:
        yield Finding("hub", "problem", seen, f"check HF_ENDPOINT, HTTPS_PROXY and the network, {offline}")
    elif code in (401, 407):
        remedy = "it wants you to log in first: HTTPS_PROXY with a name, a token in HF_TOKEN (hf auth login)"
        yield Finding("hub", "problem", seen, f"{remedy}, {offline}")
    elif code == 429 or code >= 500:
        yield Finding("hub", "problem", seen, f"wait and run this again, {offline}")
    elif code >= 400 and code != 405:
        yield Finding("hub", "problem", seen, f"HF_ENDPOINT should be the hub's address, {offline}")
    else:
        yield Finding("hub", "ok", seen)


def has_token(variables: Mapping[str, str] = os.environ) -> bool:
    """Returns whether huggingface_hub would find a token in the environment or in its file."""
    if variables.get("HF_TOKEN") or variables.get("HUGGING_FACE_HUB_TOKEN"):
        return True
    home = variables.get("HF_HOME") or Path(variables.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "huggingface"
    file = Path(variables.get("HF_TOKEN_PATH") or Path(home) / "token").expanduser()
    try:
        return file.stat().st_size > 0
    except OSError:
        return False


def _head(address: str, seconds: float) -> tuple[int | None, str]:
    """Returns the status code of one HEAD request, None without an answer, and a message."""
    try:
        request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "distft-doctor"})
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return answer.status, "answers"
    except urllib.error.HTTPError as error:
        return error.code, f"answers {error.code}"
    except TimeoutError:
        return None, f"does not answer within {seconds:g} s"
    except urllib.error.URLError as error:
        slow = isinstance(error.reason, TimeoutError)
        return None, f"does not answer within {seconds:g} s" if slow else f"cannot be reached: {error.reason}"
    except (OSError, ValueError) as error:
        return None, f"cannot be queried: {error}"
