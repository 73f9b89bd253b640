"""The hub is asked once, without the token, and its answer told with what to do."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from distft.doctor.network import check_hub, has_token

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
def test_every_answer_has_its_remedy(code: int, state: str, seen: str, remedy: str) -> None:
    with hub(code) as (endpoint, asked):
        [found] = check_hub(variables(endpoint), seconds=0.5)
    assert found.state == state
    assert seen in found.seen
    assert remedy in found.remedy
    assert asked == [("HEAD", None)]
    assert TOKEN not in found.seen + found.remedy


def test_a_hub_that_is_not_there_is_a_problem() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        [found] = check_hub(variables(f"http://127.0.0.1:{taken.getsockname()[1]}"))
    assert found.state == "problem" and "Connection refused" in found.seen


def test_a_wrong_address_is_a_problem() -> None:
    [found] = check_hub(variables("hub.local"))
    assert found.state == "problem" and "unknown url type" in found.seen and "HF_ENDPOINT" in found.remedy


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
