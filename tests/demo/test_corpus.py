"""The demo's rows are single questions with one answer each."""

import json
import zipfile
from pathlib import Path

from distft.demo.corpus import english_pairs, write_jsonl

GREETINGS = """
categories: [greetings]
conversations:
- - Hello
  - Hi there
  - How are you?
- - "hello "
  - Hi
- - Are you well?
  - 'Fine: thanks'
- - Nobody answers
"""


def wheel_with(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "corpus.whl", "w") as archive:
        archive.writestr("chatterbot_corpus/data/english/greetings.yml", GREETINGS)
        archive.writestr("chatterbot_corpus/data/german/greetings.yml", "conversations: [[Hallo, Guten Tag]]")
    return folder / "corpus.whl"


def test_a_question_is_kept_once_with_its_first_answer(tmp_path: Path):
    assert english_pairs(wheel_with(tmp_path)) == [
        {"prompt": "Hello", "completion": "Hi there"},
        {"prompt": "Are you well?", "completion": "Fine: thanks"},
    ]


def test_rows_are_json_lines_in_plain_utf8(tmp_path: Path):
    write_jsonl([{"prompt": "é\n", "completion": "b"}], tmp_path / "a.jsonl")
    text = (tmp_path / "a.jsonl").read_text()
    assert "é" in text
    assert [json.loads(line) for line in text.splitlines()] == [{"prompt": "é\n", "completion": "b"}]
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]
