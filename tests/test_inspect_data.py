import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distft.config import ConfigError
from distft.data.shards import Row
from distft.data.tokenize import byte_tokenizer
from distft.inspect_data import main, marked
from tests.support.warm import python


def test_trained_tokens_are_marked_without_splitting_letters():
    tokenizer = byte_tokenizer()
    ids = np.array(tokenizer("hié<|im_end|>a")["input_ids"], np.int32)
    row = Row(ids, np.array([False, True, True, True, True, False]))
    assert marked(row, tokenizer).plain == "h⟦i│é│<|im_end|>⟧a"


@pytest.mark.slow
def test_the_command_shows_what_is_trained(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "hi", "completion": "yes"}\n' * 3)
    overrides = ["model.tiny=true", "cache_dir=cache", "data.train=rows.jsonl", "data.eval=null"]
    command = [python(), "-m", "distft.inspect_data", *overrides, "n=2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=480, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("⟦y│e│s│<|im_end|>⟧") == 2
    assert f"row 0 of 3 (train): 26 tokens, 4 trained, {tmp_path / 'rows.jsonl'}:1" in done.stdout


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides for rows whose weights differ and whose text is markup; the working folder is a temporary one."""
    monkeypatch.chdir(tmp_path)
    turns = [
        {"role": "user", "content": "<script>alert('é')</script> & more"},
        {"role": "assistant", "content": "<b>yes</b>", "weight": 0.5},
    ]
    rows = [
        {"messages": turns},
        {"messages": "wrong"},
        {"messages": [turns[0], {"role": "assistant", "content": "no"}]},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["model.tiny=true", "cache_dir=cache", "data.train=rows.jsonl", "data.eval=null"]
    return [*given, "data.max_bad_fraction=0.5"]


@pytest.mark.slow
def test_rows_are_written_as_jsonl_with_their_place(asked: list[str], tmp_path: Path):
    assert main([*asked, "out=shown/rows.jsonl"]) == 0
    first, second = [json.loads(line) for line in (tmp_path / "shown" / "rows.jsonl").read_text().splitlines()]
    assert list(first) == ["source", "line", "input_ids", "trained", "weight", "text"]
    assert [(Path(row["source"]).name, row["line"]) for row in (first, second)] == [
        ("rows.jsonl", 1),
        ("rows.jsonl", 3),
    ]
    assert byte_tokenizer().decode(first["input_ids"]) == first["text"]
    said = [i for i, trained in enumerate(first["trained"]) if trained]
    assert byte_tokenizer().decode([first["input_ids"][i] for i in said]) == "<b>yes</b><|im_end|>"
    assert {first["weight"][i] for i in said} == {0.5} and sum(first["weight"]) == 0.5 * len(said)
    assert sum(second["weight"]) == sum(second["trained"])


def test_the_page_escapes_rows_and_needs_no_other_file(asked: list[str], tmp_path: Path):
    assert main([*asked, "out=rows.html", "n=1"]) == 0
    page = (tmp_path / "rows.html").read_text()
    shown = HTMLText()
    shown.feed(page)
    assert "<script>alert('é')</script> & more" in shown.text and shown.trained == "<b>yes</b><|im_end|>"
    assert (
        "&lt;" in page
        and "<<" not in page
        and "script" not in shown.tags
        and not re.search(r"\b(?:src|href|url)\b", page)
    )


class HTMLText(HTMLParser):
    """The tags, the text and the trained text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text, self.trained, self._inside, self._row = "", "", False, False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._row |= tag == "pre"
        self._inside = ("class", "t") in attrs and self._row

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        self.text += data if self._row else ""
        self.trained += data if self._inside else ""


def test_rows_are_written_for_openai(asked: list[str], tmp_path: Path):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "hi", "completion": "yes"}\n' * 2)
    given = [*asked[:2], "data.train=pairs.jsonl", "data.eval=null", "as=openai", "n=0", "out=openai.jsonl"]
    assert main(given) == 0
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    assert [json.loads(line) for line in (tmp_path / "openai.jsonl").read_text().splitlines()] == [
        {"messages": turns}
    ] * 2
    with pytest.raises(ConfigError, match=r"rows.jsonl:1: messages\[1\].weight: is 0.5"):
        main([*asked, "as=openai", "out=openai.jsonl"])


def test_wrong_keys_are_refused_together():
    with pytest.raises(ConfigError) as error:
        main(["n=many", "part=test", "out=rows.csv", "data.train=x"])
    assert [message.partition(":")[0] for message in error.value.messages] == ["n=many", "part=test", "out=rows.csv"]


@pytest.mark.slow
def test_both_sides_of_a_pair_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Q", "chosen": "yes", "rejected": "no", "weight": 0.5}\n')
    given = ["model.tiny=true", "cache_dir=cache", "data.train=rows.jsonl", "data.eval=null"]
    given += ["model.task=preference", "loss=dpo"]
    assert main(given) == 0
    shown = capsys.readouterr().out
    assert re.search(r"chosen: .*⟦y│e│s│<\|im_end\|>⟧.*rejected: .*⟦n│o│<\|im_end\|>⟧", shown, re.DOTALL)
    assert main([*given, "out=rows-shown.jsonl"]) == 0
    (line,) = [json.loads(text) for text in (tmp_path / "rows-shown.jsonl").read_text().splitlines()]
    assert line["chosen"].endswith("yes<|im_end|>\n") and line["rejected"].endswith("no<|im_end|>\n")
    assert line["text"] == line["chosen"] + line["rejected"] and line["borders"] == [line["weight"].index(0.5) + 5]
    assert line["weight"] == [0.5 * trained for trained in line["trained"]]
    assert main([*given, "out=rows.html"]) == 0
    assert "<p>chosen</p><pre>" in (tmp_path / "rows.html").read_text()
