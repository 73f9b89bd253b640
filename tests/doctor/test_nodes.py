"""Differences between nodes are reported by node; tests/slurm tests the allocation that gives the answers."""

from typing import Any

import pytest

from distft.doctor.finding import Finding, show
from distft.doctor.nodes import judge_clocks, judge_same
from distft.trackers.terminal import screen

HERE: dict[str, Any] = {"executable": "/env/bin/python", "python": "3.11.7", "distft": "/code/distft"}
HERE |= {"commit": {"commit": "a" * 40, "changed": False}, "packages": {"torch": "2.13.0", "numpy": "2.4.6"}}


@pytest.mark.parametrize(("seconds", "state"), [(0.3, "ok"), (-3.0, "warning"), (3.0, "warning"), (600.0, "problem")])
def test_clock_skew_is_reported(seconds: float, state: str) -> None:
    [found] = judge_clocks([{"n1": 100.0, "n2": 100.0 + seconds, "n3": 100.1}])
    assert found.state == state
    if state != "ok":
        assert found.seen == f"n2 is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} n1"


def test_one_late_answer_is_not_clock_skew() -> None:
    [found] = judge_clocks([{"n1": 104.0, "n2": 100.0}, {"n1": 105.0, "n2": 105.01}])
    assert found.state == "ok"


def test_differences_are_reported_by_node() -> None:
    other = HERE | {"executable": "/usr/bin/python3", "packages": {"torch": "2.9.0", "numpy": "2.4.6"}}
    found = list(judge_same(HERE, {"n1": HERE, "n2": other}))
    assert [(each.host, each.seen) for each in found] == [
        ("n2", "executable is /usr/bin/python3, and /env/bin/python here"),
        ("n2", "torch is 2.9.0, and 2.13.0 here"),
    ]
    [same] = judge_same(HERE, {"n1": HERE, "n2": HERE})
    assert same.state == "ok" and "commit aaaaaaaaaa" in same.seen


def test_problems_come_last_and_equal_nodes_share_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    low = Finding("memory", "warning", "little", "more")
    found = [Finding("port", "problem", "none", "free one"), Finding("cores", "ok", "2"), low.on("n1"), low.on("n2")]
    show(found, screen(sys.stdout))
    said = capsys.readouterr().out
    assert said.index("ok  cores") < said.index("warning memory: n1, n2: little") < said.index("PROBLEM port: none")
    assert "  Try: free one" in said
    assert said.rstrip().endswith("1 ok, 2 warnings, 1 problem")
