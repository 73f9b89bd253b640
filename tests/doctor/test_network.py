"""Names, ports and collectives are tried; a failure names the nodes that could not connect.

The hub gets one request, without the token; its answer is reported with a fix.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from distft.doctor.network import check_all_reduce, check_hub, check_port, has_token, listen, own_address, unreachable
from tests.doctor.asked import ask_check

root = pytest.mark.skipif(os.geteuid() != 0, reason="a name or network of one's own needs root")
NAMED = ["unshare", "--uts", "sh", "-c", 'hostname nowhere-7; exec "$0" "$@"']


@pytest.mark.slow
@root
@pytest.mark.parametrize(("nodes", "state"), [(1, "warning"), (2, "problem")])
def test_an_unresolvable_host_name_matters_to_other_nodes(nodes: int, state: str) -> None:
    [found] = ask_check("network", "check_host_name", nodes, through=NAMED)
    assert found.state == state
    assert found.seen.startswith("nowhere-7 does not resolve")
    assert "/etc/hosts" in found.remedy


@pytest.mark.slow
@root
@pytest.mark.parametrize(("nodes", "state"), [(1, "ok"), (2, "warning")])
def test_a_loopback_address_is_a_warning_for_more_than_one_node(tmp_path: Path, nodes: int, state: str) -> None:
    (tmp_path / "hosts").write_text("127.0.1.1 nowhere-7\n")
    inside = f'hostname nowhere-7; mount --bind {tmp_path}/hosts /etc/hosts; exec "$0" "$@"'
    through = ["unshare", "--uts", "--mount", "sh", "-c", inside]
    [found] = ask_check("network", "check_host_name", nodes, through=through)
    assert found.state == state and found.seen == "nowhere-7 resolves to 127.0.1.1"


@pytest.mark.slow
@root
@pytest.mark.parametrize(("port", "state"), [(54, "ok"), (53, "warning")])
def test_a_name_server_that_does_not_answer_is_a_warning(tmp_path: Path, port: int, state: str) -> None:
    """The name server's port is closed, which fails at once, or open without an answer."""
    (tmp_path / "resolv").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:2\n")
    inside = f'ip link set lo up; mount --bind {tmp_path}/resolv /etc/resolv.conf; exec "$0" "$@"'
    take = "import os, socket, sys; s = socket.socket(type=socket.SOCK_DGRAM);"
    take += f"s.bind(('127.0.0.1', {port})); s.set_inheritable(True); os.execvp(sys.argv[1], sys.argv[1:])"
    through = ["unshare", "--net", "--mount", "sh", "-c", inside, "python3", "-c", take]
    [found] = ask_check("network", "check_name_server", through=through)
    assert found.state == state and found.seen.startswith("a lookup of 127.0.0.1 takes ")
    assert state == "ok" or "/etc/resolv.conf" in found.remedy


def test_a_free_port_is_bound_and_reached() -> None:
    assert [found.state for found in check_port()] == ["ok"]


@root
def test_a_loopback_that_is_down_is_a_problem() -> None:
    [found] = ask_check("network", "check_port", through=["unshare", "--net"])
    assert found.state == "problem" and "was bound, but not reached" in found.seen
    assert found.remedy.startswith("ip link set lo up")


@pytest.mark.slow
@root
def test_no_free_port_is_a_problem() -> None:
    take = "import os, socket, sys; s = socket.socket(); s.bind(('127.0.0.1', 61000)); s.set_inheritable(True);"
    take += "os.execvp(sys.argv[1], sys.argv[1:])"
    one = 'ip link set lo up; echo 61000 61000 > /proc/sys/net/ipv4/ip_local_port_range; exec "$0" "$@"'
    through = ["unshare", "--net", "sh", "-c", one, "python3", "-c", take]
    [found] = ask_check("network", "check_port", through=through)
    assert found.state == "problem" and "Address already in use" in found.seen
    assert "ip_local_port_range" in found.remedy


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_two_local_processes_all_reduce_a_tensor() -> None:
    [found] = check_all_reduce()
    assert found.state == "ok" and found.seen.startswith("2 processes over gloo, interface lo")


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_a_missing_interface_is_named_with_its_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuch0")
    [found] = check_all_reduce()
    assert found.state == "problem"
    for rank in (0, 1):
        assert f"rank {rank} on {socket.gethostname()}: GLOO_SOCKET_IFNAME=nosuch0" in found.seen
    assert "GLOO_SOCKET_IFNAME" in found.remedy and "lo" in found.remedy.split()


@pytest.mark.slow
def test_an_all_reduce_over_its_timeout_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    [found] = check_all_reduce(seconds=0.2)
    assert found.state == "problem" and "no answer within 0.2 s" in found.seen


def test_unreachable_addresses_are_named() -> None:
    listening, port = listen("127.0.0.1")
    with listening, socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        closed = deaf.getsockname()[1]
        found = unreachable({"n1": ("127.0.0.1", port), "n2": ("127.0.0.1", closed)})
    assert found == {"n2": f"127.0.0.1:{closed} Connection refused"}


def test_the_interface_is_that_of_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert own_address("gloo") == ("lo", "127.0.0.1")


TOKEN = "hf_0123456789abcdef"
HANG = 0


@contextmanager
def hub(code: int) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """Gives the address of a server that answers everything with `code`, and the requests that came."""
    asked: list[tuple[str, str | None]] = []

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append((self.command, self.headers["Authorization"]))
            if code == HANG:
                time.sleep(2)
                return
            self.send_response(code)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def variables(endpoint: str) -> dict[str, str]:
    return {"HF_ENDPOINT": endpoint, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "state", "seen", "remedy"),
    [
        (200, "ok", "answers; a token is there", ""),
        (401, "problem", "answers 401", "hf auth login"),
        (404, "problem", "answers 404", "HF_ENDPOINT should be the hub's address"),
        (429, "problem", "answers 429", "wait and run this again"),
        (503, "problem", "answers 503", "wait and run this again"),
        (HANG, "problem", "does not answer within 0.5 s", "HF_HUB_OFFLINE=1"),
    ],
)
def test_every_http_status_has_a_fix(code: int, state: str, seen: str, remedy: str) -> None:
    with hub(code) as (endpoint, asked):
        [found] = check_hub(variables(endpoint), seconds=0.5)
    assert found.state == state
    assert seen in found.seen
    assert remedy in found.remedy
    assert asked == [("HEAD", None)]
    assert TOKEN not in found.seen + found.remedy


def test_an_unreachable_hub_is_a_problem() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        [found] = check_hub(variables(f"http://127.0.0.1:{taken.getsockname()[1]}"))
    assert found.state == "problem" and "Connection refused" in found.seen


def test_a_wrong_address_is_a_problem() -> None:
    [found] = check_hub(variables("hub.local"))
    assert found.state == "problem" and "unknown url type" in found.seen and "HF_ENDPOINT" in found.remedy


@pytest.mark.slow
@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_nothing_is_sent(name: str) -> None:
    with hub(200) as (endpoint, asked):
        [found] = check_hub({"HF_ENDPOINT": endpoint, name: "1"})
    assert found.state == "ok" and f"offline by {name}=1" in found.seen and "no token" in found.seen
    assert asked == []


def test_a_token_is_found_where_huggingface_hub_finds_it(tmp_path: Path) -> None:
    home = {"HF_HOME": str(tmp_path)}
    assert not has_token(home)
    (tmp_path / "token").write_text(TOKEN)
    assert has_token(home)
    assert has_token({"HF_TOKEN_PATH": str(tmp_path / "token"), "HF_HOME": "/nowhere"})
    assert has_token({"HF_TOKEN": TOKEN, "HF_HOME": "/nowhere"})
