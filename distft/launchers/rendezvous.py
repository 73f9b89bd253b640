"""Rendezvous of a run's nodes: one TCPStore, held by the first node, which the ranks use too.

The first node writes its addresses and port to the run folder, so no host name has to resolve.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from torch.distributed import (  # documented there
    DistError,  # pyright: ignore[reportPrivateImportUsage]
    DistStoreError,  # pyright: ignore[reportPrivateImportUsage]
    TCPStore,  # pyright: ignore[reportPrivateImportUsage]
)

from distft.run import RunFolder, read_json, write_json
from distft.runtime.addresses import Unreachable, interface_of, own_addresses, reach
from distft.runtime.errors import Failure

SECONDS_TO_MEET = 60.0
_SECONDS_TO_REACH = 10.0  # timeout for a store that is already open
_SECONDS_TO_PART = 10.0
_SECONDS_OF_REQUEST = 1.0
_SECONDS_BETWEEN_LOOKS = 0.5  # polls for another node's failure; one small request to the first node


@dataclass(frozen=True)
class Place:
    """The content of rendezvous.json, which the store repeats: if they differ, the run folder is not shared."""

    attempt: int
    addresses: list[str]
    port: int
    number: str  # random, for this attempt


@dataclass(frozen=True)
class Node:
    """One of the nodes of a run."""

    index: int  # 0 holds the store
    count: int


class RendezvousError(RuntimeError):
    """The rendezvous of the nodes failed; the message names the missing nodes and the reason."""


class Rendezvous:
    """The open store as one node uses it."""

    def __init__(self, store: TCPStore, node: Node, address: str, port: int, interface: str | None, attempt: int):
        """address: the first node's, as this node reaches it. interface: this node's network interface."""
        self.store, self.node, self.address, self.port = store, node, address, port
        self.interface, self.attempt = interface, attempt

    def client(self) -> TCPStore:
        """Returns a new connection, for another thread: requests on one connection block each other."""
        return _store(self.address, self.port, timedelta(seconds=_SECONDS_TO_PART))

    def report_failure(self, failure: Failure) -> None:
        """Reports a failure of this node's ranks to all nodes; the first one reported is the failure of the run."""
        with suppress(DistError):
            self.store.compare_set("failure", "", json.dumps(asdict(failure)))

    def reported_failure(self) -> Failure | None:
        """Returns the failure that was reported first, None if there is none or the first node is gone."""
        try:
            return Failure(**json.loads(self.store.get("failure"))) if self.store.check(["failure"]) else None
        except DistError:
            return None

    @contextmanager
    def watched(self, act: Callable[[], None]) -> Iterator[None]:
        """Calls `act` once, from a thread, when another node fails or the first node is lost inside the block."""
        over = threading.Event()

        def look() -> None:
            store = self.client()
            while not over.wait(_SECONDS_BETWEEN_LOOKS):
                try:
                    failed = store.check(["failure"])
                except DistError:
                    failed = True
                if failed and not over.is_set():
                    return act()

        thread = threading.Thread(target=look, daemon=True)
        if self.node.count > 1:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if thread.is_alive():
                thread.join()

    def leave(self) -> None:
        """Waits until every node leaves, _SECONDS_TO_PART at most: the store must outlive its last reader."""
        with suppress(DistError):
            if self.store.add("parted", 1) == self.node.count:
                self.store.set("all parted", "")
            if self.node.index == 0:
                _appears(self.store, "all parted", _SECONDS_TO_PART)


def rendezvous_file(run: RunFolder, attempt: int) -> Path:
    return run.rank_log(attempt, 0).with_name("rendezvous.json")


def open_alone(attempt: int) -> Rendezvous:
    """Opens the store of a run on this machine only."""
    store = _store("127.0.0.1", 0, timedelta(seconds=SECONDS_TO_MEET), is_master=True)
    return Rendezvous(store, Node(0, 1), "127.0.0.1", store.port, interface_of("127.0.0.1"), attempt)


def open_first(run: RunFolder, attempt: int, count: int, vouched: str = "", port: int = 0) -> Rendezvous:
    """Opens the store on the first node and waits for all nodes; RendezvousError when some do not join.

    vouched: this node's address according to the scheduler or the user. port: 0 takes a free one.
    """
    addresses = own_addresses(*([vouched] if vouched else []))
    if not addresses:
        raise RendezvousError(
            "the first node has no address that others could reach: its name does not resolve, or to loopback, "
            "and no interface is up. Try: NodeAddr in slurm.conf, or launcher.rendezvous=ADDRESS:PORT"
        )
    try:
        store = _store("127.0.0.1", port, timedelta(seconds=SECONDS_TO_MEET), is_master=True)
    except DistError as error:
        raise RendezvousError(
            f"port {port} of this machine is taken: {_first_line(error)}. Try: another port"
        ) from error
    place = Place(attempt, addresses, store.port, os.urandom(8).hex())
    store.set("place", json.dumps(asdict(place)))
    file = rendezvous_file(run, attempt)
    write_json(file, asdict(place))
    if count > 1 and not _appears(store, "all joined", SECONDS_TO_MEET):
        raise RendezvousError(
            f"{store.add('nodes', 0) + 1} of {count} nodes joined within {SECONDS_TO_MEET:.0f} s. "
            f"The others read the address of this node from {file}: {', '.join(addresses)} port {store.port}"
        )
    towards = store.get("reached").decode() if count > 1 else addresses[0]
    return Rendezvous(store, Node(0, count), "127.0.0.1", store.port, interface_of(towards), attempt)


def join(run: RunFolder, attempt: int, node: Node) -> Rendezvous:
    """Joins the store in this attempt's rendezvous.json; RendezvousError when it cannot be reached."""
    file = rendezvous_file(run, attempt)
    deadline = time.monotonic() + SECONDS_TO_MEET
    while not file.is_file():
        if time.monotonic() > deadline:
            raise RendezvousError(
                f"the first node has not written {file} in {SECONDS_TO_MEET:.0f} s. Did it start? Is the disk shared?"
            )
        time.sleep(0.1)
    place = Place(**read_json(file))
    return _joined(run, place.addresses, place.port, node)


def join_at(run: RunFolder, host: str, port: int, count: int) -> Rendezvous:
    """Joins the store at the address that the user gave, as the next node; RendezvousError when that fails."""
    rendezvous = _joined(run, [host], port, None, count)
    if rendezvous.node.index >= count:
        joined = f"launcher.nodes={count}, and {count} nodes have already joined"
        raise RendezvousError(f"{joined}. Try: launcher.nodes={count + 1}")
    return rendezvous


def _joined(run: RunFolder, addresses: list[str], port: int, node: Node | None, count: int = 0) -> Rendezvous:
    try:
        address, own = reach(addresses, port, SECONDS_TO_MEET if node is None else _SECONDS_TO_REACH)
        store = _store_that_answers(address, port)
        place = Place(**json.loads(store.get("place")))
    except (Unreachable, DistError) as error:
        raise RendezvousError(_first_line(error)) from error
    file = rendezvous_file(run, place.attempt)
    if not file.is_file() or read_json(file)["number"] != place.number:
        raise RendezvousError(
            f"{address}:{port} answers, but {file} differs from what it wrote: the nodes do not share the run folder. "
            "Try: runs_dir on a disk that all nodes mount at the same path"
        )
    came = store.add("nodes", 1)  # without the first
    store.set("reached", address)
    node = node or Node(came, count)
    if came == node.count - 1:
        store.set("all joined", "")
    return Rendezvous(store, node, address, port, interface_of(own), place.attempt)


def _appears(store: TCPStore, key: str, seconds: float) -> bool:
    """Waits for a key of the store; returns False when it is not there after `seconds`.

    Trap: a signal handler of Python runs only when the request returns, so each request lasts a second at most.
    """
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        try:
            store.wait([key], timedelta(seconds=min(left, _SECONDS_OF_REQUEST)))
        except DistStoreError:  # its timeout
            continue
        return True
    return False


def _store(host: str, port: int, timeout: timedelta, is_master: bool = False) -> TCPStore:
    return TCPStore(host, port, None, is_master, timeout, wait_for_workers=False, multi_tenant=is_master)


def _store_that_answers(host: str, port: int) -> TCPStore:
    """Returns the store at an address; RendezvousError when another program has it.

    Trap: the client's first request has no timeout, so a program that does not reply would block for ever.
    """
    found: list[TCPStore] = []

    def connect() -> None:
        with suppress(DistError):
            found.append(_store(host, port, timedelta(seconds=SECONDS_TO_MEET)))

    ask = threading.Thread(target=connect, daemon=True)
    ask.start()
    ask.join(SECONDS_TO_MEET / 2)
    if not found:
        raise RendezvousError(
            f"{host}:{port} answers, and is no rendezvous of a run: another program has it. Try: another port"
        )
    return found[0]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
