"""A node offers addresses that others can reach, and loopback only if it is configured."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from distft.runtime import addresses
from distft.runtime.addresses import Unreachable, interface_of, is_own, own_addresses, reach
from tests.support.ranks import free_port


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this machine that answers on IPv4's loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_name_that_resolves_to_loopback_is_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    assert not {"127.0.0.1", "::1"} & set(own_addresses())


def test_a_configured_address_comes_first_even_loopback():
    assert own_addresses("127.0.0.1")[0] == "127.0.0.1"
    assert own_addresses("10.99.0.7", "10.99.0.8")[:2] == ["10.99.0.7", "10.99.0.8"]


def test_an_unresolvable_name_falls_back_to_interfaces(monkeypatch: pytest.MonkeyPatch):
    interfaces = [("lo", "127.0.0.1"), ("eth0", "10.1.2.3"), ("ib0", "10.9.2.3")]
    monkeypatch.setattr(addresses, "_of_interfaces", lambda: interfaces)
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-name.invalid")
    assert own_addresses("no-such-name.invalid") == ["10.1.2.3", "10.9.2.3"]


def test_a_link_local_address_is_not_used():
    assert not any(address.startswith(("fe80", "169.254")) for address in own_addresses())


def test_this_machine_knows_its_own_addresses_and_interfaces():
    assert is_own("localhost") and is_own("127.0.0.1")
    assert not is_own("10.99.0.7") and not is_own("no-such-name.invalid")
    assert interface_of("127.0.0.1") == "lo" and interface_of("10.99.0.7") is None
    for address in own_addresses():
        assert interface_of(address) not in (None, "lo") or not is_own(address)


def test_the_first_address_that_answers_is_used(port: int):
    assert reach(["::1", "127.0.0.1"], port, 5) == ("127.0.0.1", "127.0.0.1")


@pytest.mark.slow
def test_a_port_that_opens_late_is_reached():
    port = free_port()

    def open_late() -> None:
        time.sleep(0.5)
        with socket.create_server(("127.0.0.1", port)) as late:
            late.accept()

    thread = threading.Thread(target=open_late)
    thread.start()
    assert reach(["127.0.0.1"], port, 10)[0] == "127.0.0.1"
    thread.join()


def test_every_address_tried_is_named_with_its_error():
    port = free_port()
    with pytest.raises(Unreachable) as caught:
        reach(["127.0.0.1", "no-such-name.invalid"], port, 0.1)
    said = str(caught.value)
    assert said.startswith("cannot reach the first node in 0 s (")
    assert f"127.0.0.1:{port}: [Errno 111] Connection refused" in said and f"no-such-name.invalid:{port}: " in said
    with pytest.raises(Unreachable, match="no address"):
        reach([], port, 0)
