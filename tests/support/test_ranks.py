"""Groups of ranks in tests end soon when one of them fails, and their port stays theirs."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import ranks
from tests.support.ranks import free_port, wait


def started(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-ISc", code])


@pytest.mark.slow
def test_others_end_soon_after_a_rank_that_failed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ranks, "GRACE", 0.1)
    processes = [started("raise SystemExit(3)"), started("import time; time.sleep(100)")]
    began = time.monotonic()
    try:
        assert wait(processes, 90) == [3, None]
    finally:
        processes[1].kill()
    assert time.monotonic() - began < 90 and processes[1].wait(10) == -9


def test_ports_are_below_those_of_connections():
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(free_port() < lowest for _ in range(50))
