"""A run connects only to its own ranks: hub, uploads and sources belong to the processes before and around it."""

import os
import re
import sys
from pathlib import Path

import pytest

from tests.support.sockets import DNS, talks
from tests.test_hub import ROWS, model_files, run  # noqa: F401  # a fixture

OWN_NAME = re.compile(r"127\\7in-addr\\4arpa")  # torch's TCPStore asks for the name of the loopback, for its logs
NAME_SERVICE = ('"/var/run/nscd/socket"', '"/run/systemd/resolve/io.systemd.Resolve"')


def test_lookups_and_foreign_addresses_are_detected(require, tmp_path: Path) -> None:
    require("strace")
    program = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('192.0.2.1', 443));"
    program += "socket.socket(socket.AF_INET6).bind(('::', 0)); socket.socket().bind(('127.0.0.1', 0))"
    found = talks([sys.executable, "-c", program], tmp_path / "traced")
    assert [(each.call, each.address, each.is_local) for each in found] == [
        ("connect", "192.0.2.1", False),
        ("bind", "::", True),
        ("bind", "127.0.0.1", True),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp", pytest.param("zero2", marks=pytest.mark.soak)])
def test_a_run_connects_only_to_its_own_ranks(require, model_files, tmp_path: Path, strategy: str) -> None:  # noqa: F811
    """Nobody forbids the hub from outside: one who asked it would look up its name, and be seen."""
    require("strace")
    model = tmp_path / "model"
    model.mkdir()
    for name, content in model_files.items():
        (model / name).write_bytes(content)
    (tmp_path / "rows.jsonl").write_text(ROWS)
    words = ["model.path=model", "data.train=rows.jsonl", "data.eval=null", "cache_dir=cache"]
    assert run("prepare", tmp_path, *words[:2]).returncode == 0
    words += ["train.global_batch_size=2", "train.micro_batch_size=1", "launcher.processes_per_node=2"]
    words += ["name=first", f"strategy={strategy}", "train.max_steps=2", "train.epochs=null"]
    online = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_ENDPOINT")}
    command = [sys.executable, "-m", "distft.launch", *words]
    found = talks(command, tmp_path / "traced", cwd=tmp_path, env=online | {"HF_HOME": str(tmp_path / "home")})
    lookups = [each for each in found if each.port == DNS]
    assert [each for each in found if not each.is_local and each not in lookups] == []
    assert [each for each in lookups if not OWN_NAME.search(each.question)] == []
    assert {each.address for each in found if each.port is None} <= set(NAME_SERVICE)
    connected = {each.process for each in found if each.call == "connect" and each.port not in (None, DNS)}
    assert len(connected) >= 2  # both ranks came to the rendezvous
    print(
        f"{len(found)} calls, {len(lookups)} lookups of 127.0.0.1, {len(connected)} processes connect to the loopback"
    )
