"""A wrong key, of the benchmark's or of the runs', is told with the nearest right one, all at once."""

import pytest

from benchmarks.throughput.settings import read_arguments
from distft.config import ConfigError


def refused(*arguments: str) -> str:
    with pytest.raises(ConfigError) as error:
        read_arguments(arguments, cores=2)
    return "\n".join(error.value.messages)


def test_wrong_values_are_told_at_once():
    text = refused("processes=1,x", "strategies=ddpp", "scaling=week", "repeats=2,3", "rows=even")
    for told in ("processes=1,x", "Nearest: ddp", "Nearest: weak", "repeats=2,3", "rows=even"):
        assert told in text


def test_a_typing_error_in_an_own_key_is_told_as_such_and_one_in_a_runs_key_too():
    text = refused("proceses=1,2", "optimzer.lr=1")
    assert "Nearest: processes" in text and "optimzer.lr" in text and "Nearest: optimizer.lr" in text


def test_what_the_benchmark_sets_is_not_taken_from_the_user():
    text = refused("train.max_steps=3", "launcher.nodes=2", "strategy=ddp", "train.micro_batch_size=2")
    for nearest in ("steps=", "nodes=", "strategies=", "micro="):
        assert f"is set by the benchmark. Nearest: {nearest}" in text


def test_own_rows_go_with_no_others(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    assert "rows=uniform" in refused("rows=uniform", f"data.train={tmp_path / 'rows.jsonl'}")


def test_threads_share_the_cores_of_the_fullest_node():
    assert read_arguments(["processes=1,2"], cores=8).threads == 4
    assert read_arguments(["processes=1,2", "threads=1"], cores=8).threads == 1
    assert read_arguments(["processes=1,2"], cores=0).threads is None


def test_the_strong_batch_is_that_of_the_largest_weak_one():
    asked = read_arguments(["processes=8", "nodes=1,2,4", "rows_per_process=4"], cores=0)
    assert asked.global_rows == 4 * 8 * 4
