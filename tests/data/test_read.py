import gzip
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distft.data import json_lines
from distft.data.read import UnreadableFile, read_rows, read_source
from distft.data.sources import Source

ROWS = [{"prompt": 'a, "b"\nc', "completion": "é"}, {"prompt": "2", "completion": "🏛"}]


def written(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def values(path: Path) -> list:
    return [found.value for found in read_rows(path)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "lines.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz"])
def test_every_file_format_gives_the_same_rows(tmp_path: Path, name: str):
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


def test_malformed_lines_are_reported_and_the_next_is_read(tmp_path: Path):
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


def test_a_line_over_the_limit_is_reported_and_not_held_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(json_lines, "MAX_ROW_BYTES", 50)
    lines = [json.dumps({"text": "x" * n}).encode() for n in (1, 500, 2)]
    found = list(read_rows(written(tmp_path, "a.jsonl", b"\n".join(lines))))
    assert [(row.line, row.reason) for row in found] == [(1, None), (2, "line: is longer than 50 bytes"), (3, None)]


def test_rows_of_a_json_list_carry_the_line_they_begin_on(tmp_path: Path):
    path = written(tmp_path, "a.json", b'[\n{"text":\n "x"},\n\n {"text": "y"}, 3]')
    assert [(row.line, row.value) for row in read_rows(path)] == [(2, {"text": "x"}), (5, {"text": "y"}), (5, None)]


def test_a_json_list_that_breaks_off_names_the_line(tmp_path: Path):
    with pytest.raises(UnreadableFile, match=r"a\.json:2: is not JSON: .* the rest of the file is unreadable"):
        values(written(tmp_path, "a.json", b'[{"text": "x"},\n{"text": '))


def test_a_csv_row_with_a_wrong_cell_count_names_its_first_line(tmp_path: Path):
    found = list(read_rows(written(tmp_path, "a.csv", b'prompt,completion\n"1\n2",b\nx\n"a"b,c\nd,e\n')))
    assert [(row.line, row.reason) for row in found] == [
        (2, None),
        (4, "line: has 1 cells, the header 2"),
        (5, "line: ',' expected after '\"'"),
        (6, None),
    ]


LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
PRETTY = json.dumps({"version": "1", "data": ROWS}, indent=1)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.ndjson"])
@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        json.dumps({"data": ROWS}),
        PRETTY,
        "\n".join(json.dumps(row, indent=1) for row in ROWS),
        "\n\n" + json.dumps(ROWS) + "\n\n",
        LINES.encode("utf-16"),
        LINES.encode("utf-16-le"),
        json.dumps(ROWS).encode("utf-32"),
        gzip.compress(LINES.encode(), mtime=0),
    ],
)
def test_json_is_read_in_any_layout_or_compression(tmp_path: Path, name: str, content: str | bytes):
    path = written(tmp_path, name, content.encode() if isinstance(content, str) else content)
    assert values(path) == ROWS


def test_rows_inside_an_object_carry_the_line_they_begin_on(tmp_path: Path):
    path = written(tmp_path, "a.json", b'{\n "labels": [1],\n "data": [\n{"a": 1},\n\n{"a":\n 2}]}')
    assert [(row.line, row.value) for row in read_rows(path)] == [(1, {"labels": [1], "data": [{"a": 1}, {"a": 2}]})]
    path = written(tmp_path, "a.json", b'{\n "version": "1",\n "data": [\n{"a": 1},\n\n{"a":\n 2}]}\n{"b": 3}')
    assert [(row.line, row.value) for row in read_rows(path)] == [(4, {"a": 1}), (6, {"a": 2}), (8, {"b": 3})]


@pytest.mark.parametrize(
    "row", [{"messages": [{"a": 1}]}, {"text": "x", "data": [{"a": 1}]}, {"data": [1, 2]}, {"a": 1}]
)
def test_a_file_of_one_object_that_is_a_row_gives_that_row(tmp_path: Path, row: dict):
    assert values(written(tmp_path, "a.json", json.dumps(row).encode())) == [row]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of git-lfs.*git lfs pull"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of git-lfs"),
        ("a.json", b"<!DOCTYPE html>\n<html>", "is a web page"),
        ("a.jsonl", b"PAR1\0\0", "is a Parquet file. Try: rename it to .parquet"),
        ("a.csv", b"PK\x03\x04....", "is a zip archive or an Excel sheet"),
        ("a.json", b'{"train": [{"a": 1}], "test": [{"a": 2}]}', r"lists of rows \(train, test\). Try: jq -c"),
        ("a.json", b'[\n{"a": 1}]\n[{"a": 2}] x', "is not JSON"),
        ("a.json", b'[\n{"a": 1,\n"a": 2}]', "a.json:2: has the field 'a' twice"),
        ("a.json", b'[\n{"a": 1}\n', "is a truncated JSON list"),
        ("a.csv", b"a,b,a\n1,2,3\n", "its header has 'a' twice"),
        ("a.jsonl", '{"a": "é"}'.encode("utf-16")[:-1], "a.jsonl: .*utf-16"),
    ],
)
def test_files_without_rows_or_with_lost_rows_are_named(tmp_path: Path, name: str, content: bytes, reason: str):
    with pytest.raises(UnreadableFile, match=reason):
        values(written(tmp_path, name, content))


def test_an_object_with_a_repeated_field_is_not_a_row(tmp_path: Path):
    (found,) = read_rows(written(tmp_path, "a.jsonl", b'{"a": {"b": 1, "b": 2}}'))
    assert (found.value, found.reason) == (None, "line: has the field 'b' twice")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize(
    "content",
    [
        'prompt,completion\n"a; b","c ""d""\te\nf"\n',
        'prompt;completion\n"a; b";"c ""d""\te\nf"\n',
        '"prompt"\t"completion"\n"a; b"\t"c ""d""\te\nf"\n',
        'prompt|completion\na; b|"c ""d""\te\nf"\n',
        "'prompt';'completion'\n'a; b';'c \"d\"\te\nf'\n",
        'prompt,completion\n"a; b","c \\"d\\"\te\nf"\n',
        'prompt, completion\n"a; b", "c ""d""\te\nf"\n',
        'sep=;\nprompt;completion\n"a; b";"c ""d""\te\nf"\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_are_read_with_any_delimiter_and_quoting(tmp_path: Path, name: str, content: str, encoding: str):
    assert values(written(tmp_path, name, content.encode(encoding))) == [
        {"prompt": "a; b", "completion": 'c "d"\te\nf'}
    ]


def test_one_column_tables_and_empty_cells_are_read(tmp_path: Path):
    assert values(written(tmp_path, "a.csv", b"text\nhello; you | all\n\n")) == [{"text": "hello; you | all"}]
    assert values(written(tmp_path, "a.csv", b"a,b\n1,\n")) == [{"a": "1", "b": None}]


def test_another_encoding_is_reported_with_the_conversion(tmp_path: Path):
    found = list(read_rows(written(tmp_path, "a.csv", "text\nété\nok\n".encode("latin-1"))))
    assert [(row.line, row.value) for row in found] == [(2, None), (3, {"text": "ok"})]
    assert "is not UTF-8. Try: iconv" in str(found[0].reason)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz"])
def test_a_file_with_a_wrong_suffix_is_named(tmp_path: Path, name: str):
    with pytest.raises(UnreadableFile, match=name):
        values(written(tmp_path, name, b"no such format"))


def test_a_compressed_file_that_breaks_off_is_named(tmp_path: Path):
    whole = gzip.compress(b'{"text": "x"}\n' * 100, mtime=0)
    with pytest.raises(UnreadableFile, match=r"a\.jsonl\.gz"):
        values(written(tmp_path, "a.jsonl.gz", whole[: len(whole) // 2]))


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line and line.strip()), max_size=20))
def test_any_bytes_give_a_row_or_a_reason_per_line(tmp_path: Path, lines: list[bytes]):
    found = list(read_rows(written(tmp_path, "any.jsonl", b"\n".join([b"{}", *lines]))))
    assert [row.line for row in found] == list(range(1, len(lines) + 2))
    assert all((row.value is None) == (row.reason is not None) for row in found)


def test_a_saved_dataset_gives_its_rows(tmp_path: Path):
    import datasets

    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(tmp_path / "saved")
    source = Source(saved=tmp_path / "saved")
    assert [found.value for found in read_source(source)] == ROWS
    with pytest.raises(RuntimeError, match="split test"):
        list(read_source(Source(saved=tmp_path / "saved", split="test")))


def test_a_hub_dataset_gives_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder stands for the hub id: the library opens both by the same call."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "rows").mkdir()
    written(tmp_path, "rows/train.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS).encode())
    found = list(read_source(Source(hub_id=str(tmp_path / "rows"))))
    assert [row.value for row in found] == ROWS
    assert [row.line for row in found] == [1, 2]


@pytest.mark.parametrize("piece", [1, 7, 64])
def test_a_list_is_read_in_pieces_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int):
    rows = [{"text": 'ä😀\\ " \n' * i, "n": [1.5e-3, True, None, -12, {"a": "\u2028"}]} for i in range(40)]
    for indent in (None, 1):
        text = json.dumps([123456, *rows], indent=indent, ensure_ascii=False).encode()
        path = written(tmp_path, "list.json", b"\xef\xbb\xbf" + text)
        whole = list(read_rows(path))
        monkeypatch.setattr(json_lines, "PIECE_BYTES", piece)
        assert list(read_rows(path)) == whole
        assert [row.value for row in whole] == [None, *rows]
        monkeypatch.undo()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["list.json", "rows.jsonl", "rows.csv"])
def test_a_big_file_is_never_held_whole(tmp_path: Path, name: str):
    text = "x" * 1000
    row = f'"{text}"\n' if name.endswith("csv") else json.dumps({"text": text})
    count, path = 16_000, tmp_path / name
    with path.open("w", encoding="utf-16") as file:
        file.write("[" if name.startswith("list") else "text\n" if name.endswith("csv") else "")
        for i in range(count):
            file.write((",\n" if name.startswith("list") and i else "") + row + ("\n" if name[0] == "r" else ""))
        file.write("]" if name.startswith("list") else "")
    tracemalloc.start()
    assert sum(found.value == {"text": text} for found in read_rows(path)) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * 2**20 < path.stat().st_size
