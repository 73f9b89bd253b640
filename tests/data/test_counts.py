import io

import numpy as np

from distft.data.counts import Report, Split, Stream
from distft.data.example import BadField
from distft.data.read import RawRow
from distft.data.shards import Row


def test_a_bad_row_is_one_line_whatever_it_holds():
    stream, log = Stream(), io.StringIO()
    for number in range(7):
        stream.add_bad(RawRow("a.jsonl", number, {}), BadField("text", "is 'x\ny\ud800'"), log)
    stream.add_bad(RawRow("a.jsonl", 7, None, "line: is no JSON"), None, log)
    lines = log.getvalue().splitlines()
    assert lines[0] == r"a.jsonl:0: text: is 'x\ny\ud800'"
    assert lines[7] == "a.jsonl:7: line: is no JSON"
    assert (len(lines), stream.bad, len(stream.first_bad)) == (8, 8, 5)


def test_a_split_counts_what_is_predicted():
    split = Split()
    split.add(Row(np.arange(4, dtype=np.int32), np.array([True, False, True, True])))
    split.add(Row(np.arange(2, dtype=np.int32), np.array([True, False])))
    assert split == Split(rows=2, tokens=6, trained_tokens=2, longest=4)
    assert Report(splits={"train": split}).as_dict()["splits"]["train"]["rows"] == 2
