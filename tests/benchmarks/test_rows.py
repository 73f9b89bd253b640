"""The benchmarks' rows are the same bytes everywhere, with the documented spread of lengths."""

import hashlib
import json
from pathlib import Path

import pytest

from benchmarks.rows import BLOCK, read_pairs, unequal_rows, uniform_texts, warm_up_rows, write_rows

PAIRS = [{"prompt": f"Question {i} " + "why " * (i % 4), "completion": f"Answer {i}."} for i in range(300)]
SHA256 = "4a0eba9c45471a9703f29089035bd7e4beaa61d60ca124f48d792a268db6880c"


def letters(row: dict[str, str]) -> int:
    return sum(map(len, row.values()))


def test_rows_are_the_same_bytes_each_time(tmp_path: Path):
    first = write_rows(unequal_rows(PAIRS), tmp_path / "a.jsonl")
    assert first == write_rows(unequal_rows(PAIRS), tmp_path / "b.jsonl")
    assert first == hashlib.sha256((tmp_path / "a.jsonl").read_bytes()).hexdigest()
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == unequal_rows(PAIRS)


def test_every_block_has_the_whole_spread_of_lengths():
    rows = unequal_rows(PAIRS)
    assert len(rows) == 128
    for start in range(0, 128, BLOCK):
        sizes = sorted(map(letters, rows[start : start + BLOCK]))
        assert sizes[-1] > 3300 and sizes[BLOCK // 2] < 200


def test_questions_are_unique_and_not_in_the_warm_up():
    ends = [row["prompt"].splitlines()[-1] for row in unequal_rows(PAIRS)]
    assert len(set(ends)) == len(ends)
    assert not {row["prompt"].splitlines()[-1] for row in warm_up_rows(PAIRS)} & set(ends)


def test_uniform_texts_are_longer_than_the_cut():
    assert all(len(row["text"]) > 512 for row in uniform_texts(PAIRS, 3))


@pytest.mark.slow
def test_the_demos_rows_have_the_lengths_that_are_claimed(demo_dir: Path, tmp_path: Path):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(demo_dir / "smollm2-135m-instruct" / "tokenizer.json"))
    rows = unequal_rows(read_pairs(demo_dir / "chatterbot.jsonl"))
    template = 32  # tokens around a prompt and its completion, the system's turn included
    lengths = sorted(len(tokenizer.encode(row["prompt"] + row["completion"]).ids) + template for row in rows)
    assert 175 < sum(lengths) / len(lengths) < 205 and 55 < lengths[64] < 75 and 950 < lengths[-1] <= 1024
    assert write_rows(rows, tmp_path / "rows.jsonl") == SHA256
