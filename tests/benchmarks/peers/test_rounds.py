"""Runs alternate with the matrix product; one that fails stops no other; only whole rounds are kept."""

from pathlib import Path

import pytest

from benchmarks.peers.results import loss_gaps, page, ratios
from benchmarks.peers.rounds import measure_round, read_round, write_round
from benchmarks.peers.runs import Measured, measured, seconds_of
from benchmarks.peers.watch import Ended


def run_of(
    peer: str, seconds: float, losses: list[float] | None = None, processes: int = 1, peak: float = 2.0
) -> Measured:
    return Measured(peer, processes, 1000, seconds, 0.1, 6e11, [peak], losses or [2.0, 1.5], {"x": 1}, 100.0)


def fails() -> Measured:
    raise Ended("exit code 9")


def test_each_run_has_the_product_of_just_before_and_after():
    products = iter([100.0, 200.0, 300.0])
    runs = [("a", lambda: run_of("distft", 10.0)), ("b", fails), ("c", lambda: run_of("transformers", 20.0))]
    found, failed = measure_round(runs, lambda: next(products))
    assert [run.product_gflops for run in found] == [150.0, 250.0]
    assert failed == {"b": "exit code 9"}
    assert found[0].mfu == pytest.approx(6e11 / 10 / 150e9)


def test_only_a_round_with_a_failure_is_measured_again(tmp_path: Path):
    whole = [run_of("distft", 10.0)]
    write_round(tmp_path / "whole.json", whole, {})
    write_round(tmp_path / "part.json", whole, {"b": "exit code 9"})
    assert read_round(tmp_path / "whole.json") == whole
    assert read_round(tmp_path / "part.json") is None
    assert read_round(tmp_path / "none.json") is None


def test_ratios_compare_one_round_and_equal_process_counts():
    rounds = [
        [run_of("distft", 10.0, peak=1.0), run_of("trl_grouped", 30.0), run_of("distft", 5.0, processes=2)],
        [run_of("distft", 20.0, peak=1.0), run_of("trl_grouped", 40.0), run_of("trl_grouped", 15.0, processes=2)],
    ]
    rounds[0].append(run_of("trl_grouped", 20.0, processes=2))
    found = ratios(rounds)
    values = found["trl_grouped, 1 process"]
    assert values["tokens_per_second"] == pytest.approx([3.0, 2.0])
    assert found["trl_grouped, 2 processes"]["tokens_per_second"] == [4.0]  # round 2 has no distft on 2 processes
    assert values["peak_gib"] == [0.5, 0.5]


def test_losses_are_compared_for_equal_rows_of_a_step():
    rounds = [
        [
            run_of("distft", 1.0, [2.0, 1.5]),
            run_of("trl_default", 1.0, [2.0, 1.502]),
            run_of("trl_grouped", 1.0, [9.0, 9.0]),
            run_of("distft", 1.0, [2.0, 1.5001], processes=2),
        ]
    ]
    gaps = loss_gaps(rounds)
    assert gaps == pytest.approx({"trl_default, 1 process": 2e-3, "distft, 2 processes": 1e-4})
    on_two = [[run_of("distft", 1.0, processes=2), run_of("trl_default", 1.0, [2.0, 1.501], processes=2)]]
    assert loss_gaps(on_two) == pytest.approx({"trl_default, 2 processes": 1e-3})
    about = {"code": "abc", "on": ON, "versions": {"trl": "1"}, "rows": []}
    text = page(rounds, about, "command", {"trl_single on 1 process": "exit code 9"})
    assert "| trl_default, 1 process | 2.0e-03 | **no** |" in text
    assert "An MFU above 1" in text and "Failed: trl_single on 1 process: exit code 9" in text


ON = {"hardware": {"cpu": "x", "cores": 2, "memory_gib": 3.0}, "time": "2026-01-01T00:00:00"}


def test_a_peers_rate_excludes_warm_up_and_loader_prefetch(tmp_path: Path):
    (tmp_path / "config.json").write_text(
        '{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9}'
    )
    forward = [{"padded": 10 * i, "lengths": [4 * i, i], "targets": [1, 1]} for i in range(1, 8)]
    rank = {"seconds": [9.0, 1.0, 2.0], "losses": [3.0, 2.0, 1.0], "settings": {}, "accumulation": 2}
    ranks = [rank | {"forwards": forward}, rank | {"forwards": forward}]
    found = measured("trl_single", ranks, tmp_path, [3.0, 2.0, 1.0])
    assert found.tokens == 2 * 5 * (3 + 4 + 5 + 6) and found.seconds == 3.0 and found.processes == 2
    assert found.padding == pytest.approx(0.5) and found.peaks_gib == [3.0, 2.0]


def test_time_between_steps_counts_for_distft_as_for_peers():
    assert seconds_of({"seconds": 2.0, "between": {"evaluation": 0.5, "checkpoint": 0.25}}) == 2.75
    assert seconds_of({"seconds": 2.0}) == 2.0
