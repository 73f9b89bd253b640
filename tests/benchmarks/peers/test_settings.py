"""Wrong keys and values of the comparison are reported all at once, with suggestions."""

import pytest

from benchmarks.peers.settings import PEERS, read_arguments
from distft.config import ConfigError


def test_all_errors_are_reported_at_once():
    with pytest.raises(ConfigError) as error:
        read_arguments(["one=distfr", "rows=33", "steps=1", "rounds=x"])
    text = "\n".join(error.value.messages)
    for reported in ("one=distfr", "Did you mean distft?", "rows=33", "Try: rows=32", "steps=1", "rounds=x"):
        assert reported in text


def test_an_unknown_key_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match="Did you mean rounds"):
        read_arguments(["ronds=3"])


def test_rounds_take_turns_over_all_rows():
    asked = read_arguments(["rows=64", "two=none", "one=distft,trl_single"])
    assert [asked.blocks(number) for number in range(3)] == [[0, 1], [2, 3], [0, 1]]
    assert asked.runs == [("distft", 1), ("trl_single", 1)]


def test_two_processes_need_two_threads():
    with pytest.raises(ConfigError, match="threads=1 is too few"):
        read_arguments(["threads=1"])


def test_only_grouping_by_length_reads_other_rows_in_a_step():
    assert {name for name, peer in PEERS.items() if not peer.reads_in_order} == {"trl_grouped"}


def test_no_more_steps_than_the_rows_give():
    assert read_arguments(["rows=32", "steps=5", "threads=2"]).steps == 5
    with pytest.raises(ConfigError, match="steps=6 is more than the rows allow. Try: steps=5"):
        read_arguments(["rows=32", "steps=6", "threads=2"])
