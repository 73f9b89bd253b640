import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distft.data import read
from distft.data.read import UnreadableFile, read_rows, rows_of
from distft.data.sources import Source

ROWS = [{"prompt": 'a, "b"\nc', "completion": "é"}, {"prompt": "2", "completion": "🏛"}]


def written(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def values(path: Path) -> list:
    return [found.value for found in read_rows(path)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "lines.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str):
    path = tmp_path / name
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif name.endswith("gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif name.endswith("sv"):
        mark = "," if name.endswith("csv") else "\t"
        path.write_text(f'prompt{mark}completion\n"a, ""b""\nc"{mark}é\n2{mark}🏛\n')
    else:
        path.write_text(json.dumps(ROWS, indent=1) if name == "a.json" else lines)
    assert values(path) == ROWS


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path, name: str):
    text = {"a.jsonl": '{"text": "x"}\r\n', "a.json": '[\r\n{"text": "x"}\r\n]\r\n', "a.csv": "text\r\nx\r\n"}[name]
    assert values(written(tmp_path, name, b"\xef\xbb\xbf" + text.encode())) == [{"text": "x"}]


def test_every_line_that_is_no_row_is_told_with_its_number_and_the_next_is_read(tmp_path: Path):
    lines = [b'{"text": 1}', b"", b'{"text": ', b"[1]", b'{"text": "\xff"}', b"\0\0", b"[" * 100_000, b'{"text": 2}']
    found = list(read_rows(written(tmp_path, "a.jsonl", b"\n".join(lines))))
    assert [(row.line, row.value) for row in found if row.value] == [(1, {"text": 1}), (8, {"text": 2})]
    assert [(row.line, row.reason) for row in found if not row.value] == [
        (3, "line: is not JSON at column 10: Expecting value"),
        (4, "line: is a JSON list, expected an object"),
        (5, "line: is not UTF-8 at byte 10. Try: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW, if it comes from Windows"),
        (6, "line: is not JSON at column 1: Expecting value"),
        (7, "line: is nested too deeply"),
    ]


def test_a_line_beyond_the_limit_is_told_and_never_held_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(read, "MAX_ROW_BYTES", 50)
    lines = [json.dumps({"text": "x" * n}).encode() for n in (1, 500, 2)]
    found = list(read_rows(written(tmp_path, "a.jsonl", b"\n".join(lines))))
    assert [(row.line, row.reason) for row in found] == [(1, None), (2, "line: is longer than 50 bytes"), (3, None)]


def test_rows_of_a_json_list_carry_the_line_they_begin_on(tmp_path: Path):
    path = written(tmp_path, "a.json", b'[\n{"text":\n "x"},\n\n {"text": "y"}, 3]')
    assert [(row.line, row.value) for row in read_rows(path)] == [(2, {"text": "x"}), (5, {"text": "y"}), (5, None)]


def test_a_json_list_that_breaks_off_names_the_line(tmp_path: Path):
    with pytest.raises(UnreadableFile, match=r"a\.json:2: is not JSON: .* the rest of the file is unreadable"):
        values(written(tmp_path, "a.json", b'[{"text": "x"},\n{"text": '))


def test_a_csv_row_with_another_number_of_cells_is_told_by_its_first_line(tmp_path: Path):
    found = list(read_rows(written(tmp_path, "a.csv", b'prompt,completion\n"1\n2",b\nx\n"a"b,c\nd,e\n')))
    assert [(row.line, row.reason) for row in found] == [
        (2, None),
        (4, "line: has 1 cells, the header 2"),
        (5, "line: ',' expected after '\"'"),
        (6, None),
    ]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz"])
def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path: Path, name: str):
    with pytest.raises(UnreadableFile, match=name):
        values(written(tmp_path, name, b"no such format"))


def test_a_compressed_file_that_breaks_off_is_named(tmp_path: Path):
    whole = gzip.compress(b'{"text": "x"}\n' * 100)
    with pytest.raises(UnreadableFile, match=r"a\.jsonl\.gz"):
        values(written(tmp_path, "a.jsonl.gz", whole[: len(whole) // 2]))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line and line.strip()), max_size=20))
def test_whatever_the_bytes_each_line_is_a_row_or_a_reason(tmp_path: Path, lines: list[bytes]):
    found = list(read_rows(written(tmp_path, "any.jsonl", b"\n".join([b"{}", *lines]))))
    assert [row.line for row in found] == list(range(1, len(lines) + 2))
    assert all((row.value is None) == (row.reason is not None) for row in found)


def test_a_saved_dataset_gives_its_rows(tmp_path: Path):
    import datasets

    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(tmp_path / "saved")
    source = Source(saved=tmp_path / "saved")
    assert [found.value for found in rows_of(source)] == ROWS
    with pytest.raises(RuntimeError, match="split test"):
        list(rows_of(Source(saved=tmp_path / "saved", split="test")))


def test_a_hub_dataset_gives_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder stands for the hub id: the library opens both by the same call."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "rows").mkdir()
    written(tmp_path, "rows/train.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS).encode())
    found = list(rows_of(Source(hub_id=str(tmp_path / "rows"))))
    assert [row.value for row in found] == ROWS
    assert [row.line for row in found] == [1, 2]
