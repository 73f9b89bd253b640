"""Wrong keys, of the benchmark or of its runs, are reported all at once, with suggestions."""

import pytest

from benchmarks.throughput.settings import read_arguments
from distft.config import ConfigError


def refused(*arguments: str) -> str:
    with pytest.raises(ConfigError) as error:
        read_arguments(arguments, cores=2)
    return "\n".join(error.value.messages)


def test_wrong_values_are_reported_at_once():
    text = refused("processes=1,x", "strategies=ddpp", "scaling=week", "repeats=2,3", "rows=even")
    for reported in ("processes=1,x", "Did you mean ddp?", "Did you mean weak?", "repeats=2,3", "rows=even"):
        assert reported in text


def test_typos_in_own_and_run_keys_get_suggestions():
    text = refused("proceses=1,2", "optimzer.lr=1")
    assert "Did you mean processes?" in text and "optimzer.lr" in text and "Did you mean optimizer.lr?" in text


def test_keys_set_by_the_benchmark_are_refused():
    text = refused("train.max_steps=3", "launcher.nodes=2", "strategy=ddp", "train.micro_batch_size=2")
    for nearest in ("steps=", "nodes=", "strategies=", "micro="):
        assert f"is set by the benchmark. Try: {nearest}" in text


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


@pytest.mark.slow
def test_comma_values_are_compared_in_every_combination():
    asked = read_arguments(["train.activation_checkpointing=none,full", "seed=3", "train.compile=false,true"], cores=2)
    assert asked.overrides == ["seed=3"]
    assert asked.variants == [
        ("train.activation_checkpointing=none", "train.compile=False"),
        ("train.activation_checkpointing=none", "train.compile=True"),
        ("train.activation_checkpointing=full", "train.compile=False"),
        ("train.activation_checkpointing=full", "train.compile=True"),
    ]
    assert read_arguments(["seed=3", "optimizer.betas=[0.9,0.95]"], cores=2).variants == [()]


@pytest.mark.slow
def test_every_compared_setting_is_checked_by_the_rules():
    text = refused("train.activation_checkpointing=none,selektive", "optimzer.lr=1e-5,1e-4", "train.max_steps=3,4")
    assert "optimzer.lr=1e-05" in text and "optimzer.lr=0.0001" in text and "Did you mean optimizer.lr?" in text
    assert "selektive" in text and "Did you mean selective?" in text and "Try: steps=" in text
    assert "seed=interval(1,2): a grid needs discrete values" in refused("seed=interval(1,2)")


def test_rows_and_tokens_of_a_forward_are_not_compared():
    assert "data.packing=true,false: cannot be compared" in refused("data.packing=true,false")
