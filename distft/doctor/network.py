"""Names, ports and collectives: what processes need to find and hear each other."""

import ipaddress
import os
import platform
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

from distft.doctor.child import Ended, ask_program
from distft.doctor.finding import Finding

SECONDS_TO_REDUCE = 60
SLOW_LOOKUP_SECONDS = 1.0


def check_host_name(nodes: int) -> Iterator[Finding]:
    """Finds what this machine's own name resolves to: other nodes connect to it by that name."""
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
    """Finds how long the name server takes to say that it does not know the loopback's name.

    torch's TCPStore asks it that for each connection of a rendezvous, for its logs, and waits for the answer.
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
    """Finds whether a process here can open a port and another one of this machine connect to it."""
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
    """Finds whether two processes of this machine sum a tensor, started as a run starts them."""
    try:
        answer = ask_program("distft.doctor.all_reduce", "--nodes", "1", seconds=seconds)
    except Ended as ended:
        remedy = f"unset {interface_variables()}" if interface_variables() else "the findings above come first"
        yield Finding("all-reduce", "problem", f"two processes on {platform.node()} did not: {ended}", remedy)
        return
    yield reduced(answer)


def reduced(answer: dict) -> Finding:
    """Returns the finding of an all-reduce from what its program tells."""
    over = f"over {answer['backend']}, interface {answer['interface']}"
    if answer["failed"]:
        remedy = f"GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the interface between them: {list_interfaces()}"
        return Finding("all-reduce", "problem", f"{answer['failed']} {over}", remedy)
    seen = f"{answer['processes']} processes {over}, {answer['seconds']:.2f} s"
    return Finding("all-reduce", "ok", seen)


def interface_variables() -> str:
    """Returns the variables that choose an interface, of those that are set."""
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
    return " ".join(name for name in names if name in os.environ)


def list_interfaces() -> str:
    return " ".join(name for _, name in socket.if_nameindex())
