"""The data report counts what was left out, and thresholds refuse data with too much of it."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distft.config.data import Data
from distft.data.counts import Report, Split, Stream
from distft.data.example import BadField
from distft.data.raw import RawRow
from distft.data.report import refused, summary
from distft.data.shards import Row

DATA = Data(train="rows", max_length=64)


def report(rows: int = 10, **counts: int) -> dict[str, Any]:
    stream = {"read": 1000, "bad": 0, "untrained": 0, "truncated": 0, "longest": 99, "overlap": 0, "first_bad": []}
    split = {"rows": rows, "tokens": 12345, "trained_tokens": 6789, "longest": 64}
    return {"streams": {"train": stream | counts}, "splits": {"train": split}}


@pytest.mark.parametrize("counts", [{}, {"bad": 10}, {"truncated": 500}, {"overlap": 3}, {"untrained": 990}])
def test_data_up_to_the_thresholds_is_accepted(counts: dict[str, int]):
    assert refused(report(**counts), DATA) == []


@pytest.mark.parametrize(
    ("counts", "data", "reason"),
    [
        ({"bad": 11}, {}, "data.max_bad_fraction=0.01: 11 of 1000 rows of data.train are bad"),
        ({"bad": 11}, {}, "are bad. Try: data.max_bad_fraction=0.011"),
        ({"bad": 1}, {"max_bad_fraction": 0}, "data.max_bad_fraction=0: 1 of 1000"),
        ({"truncated": 501}, {}, "are longer than data.max_length=64 (the longest has 99 tokens)"),
        ({"truncated": 400, "bad": 300}, {"max_bad_fraction": 1}, "data.max_truncated_fraction=0.5: 400 of 700"),
        ({"untrained": 1}, {"max_untrained_fraction": 0}, "1 of 1000 rows of data.train have no token to train on"),
        ({"overlap": 3}, {"overlap": "stop"}, "data.overlap=stop: 3 rows of data.train are also held out"),
        ({"rows": 0, "read": 1}, {}, "data.train: no row is left: data.eval=0.05 cannot divide 1 rows of one and the"),
        (
            {"rows": 0, "bad": 600, "untrained": 400},
            {},
            "no row is left of 1000: 600 are bad, 400 have no token to train",
        ),
    ],
)
def test_data_over_a_threshold_is_refused_with_the_key(counts: dict, data: dict, reason: str):
    assert reason in " ".join(refused(report(**counts), DATA.model_copy(update=data)))


def test_the_suggested_threshold_is_accepted():
    for bad in range(11, 1000, 7):
        (line,) = refused(report(bad=bad), DATA)
        offered = float(line.rpartition("=")[2])
        assert refused(report(bad=bad), DATA.model_copy(update={"max_bad_fraction": offered})) == []


def test_no_threshold_is_suggested_that_leaves_no_row():
    assert not any("Try" in line for line in refused(report(rows=0, bad=1000), DATA))


def test_the_summary_names_exactly_what_was_left_out():
    lines = "\n".join(summary(report(bad=2, truncated=30), Path("/cache/key")))
    assert "train: 10 rows, 12,345 tokens, 6,789 of them trained" in lines
    assert "2 bad (listed in /cache/key/bad_rows.txt), 30 cut (the longest had 99 tokens)" in lines
    assert "without a token" not in lines
    assert len(summary(report(), Path("/cache/key"))) == 1


def test_a_bad_row_is_reported_in_one_line():
    stream, log = Stream(), io.StringIO()
    for number in range(7):
        stream.add_bad(RawRow("a.jsonl", number, {}), BadField("text", "is 'x\ny\ud800'"), log)
    stream.add_bad(RawRow("a.jsonl", 7, None, "line: is no JSON"), None, log)
    lines = log.getvalue().splitlines()
    assert lines[0] == r"a.jsonl:0: text: is 'x\ny\ud800'"
    assert lines[7] == "a.jsonl:7: line: is no JSON"
    assert (len(lines), stream.bad, len(stream.first_bad)) == (8, 8, 5)


def test_a_split_counts_the_predicted_tokens():
    split = Split()
    split.add(Row(np.arange(4, dtype=np.int32), np.array([True, False, True, True])))
    split.add(Row(np.arange(2, dtype=np.int32), np.array([True, False])))
    assert split == Split(rows=2, tokens=6, trained_tokens=2, longest=4)
    assert Report(splits={"train": split}).as_dict()["splits"]["train"]["rows"] == 2
