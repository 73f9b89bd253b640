import subprocess
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from distft.config import command
from distft.prepare import RowProgress, main
from tests.support.warm import python

ROWS = '{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n'
SUMMARY = "  train: 2 rows, 46 tokens, 4 of them trained, longest row 23"


def arguments(train: str, *overrides: str) -> list[str]:
    return ["model.tiny=true", "cache_dir=cache", f"data.train={train}", "data.eval=null", *overrides]


@pytest.mark.slow
def test_the_command_prepares_and_prints_two_lines(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text(ROWS)
    program = [python(), "-m", "distft.prepare", *arguments("rows.jsonl")]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=480, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stderr.splitlines()
    assert first.startswith("prepared data ")
    assert second == SUMMARY


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Gives `run(train, *overrides) -> (exit code, what stderr says)` in a folder with rows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(ROWS)
    (tmp_path / "bad.jsonl").write_text(ROWS.replace('"completion": "d"', '"answer": "d"'))

    def call(train: str, *overrides: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            command(main, arguments(train, *overrides))
        return int(ended.value.code or 0), capsys.readouterr().err

    return call


@pytest.mark.parametrize("name", ["données (1).jsonl", "my rows, and yours.jsonl", "a=b.jsonl", "~x/{a} [b].jsonl"])
def test_any_path_prepares(run, tmp_path: Path, name: str):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(ROWS)
    code, said = run(f"./{name}" if name.startswith("~") else name)
    assert code == 0, said
    assert SUMMARY in said


@pytest.mark.parametrize(
    ("train", "overrides", "reason"),
    [
        ("row.jsonl", (), "rows.jsonl"),
        ("rows.jsonl", ("data.max_length=8",), "data.max_truncated_fraction=0.5: 2 of 2 rows"),
        ("bad.jsonl", (), "bad.jsonl:2: completion: is missing"),
        ("bad.jsonl", ("data.format=text",), "bad.jsonl:1: text: is missing"),
        ("rows.jsonl", ("data.fields={question: prompt}",), "data.fields"),
        ("rows.jsonl", ("data.chat_template=qwen",), "data.chat_template=qwen"),
    ],
)
def test_wrong_data_exits_with_2_and_the_reason(run, train: str, overrides: tuple[str, ...], reason: str):
    code, said = run(train, *overrides)
    assert code == 2, said
    assert reason in said


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_is_a_line_now_and_then(is_terminal: bool):
    out = StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=120, highlight=False)
    with RowProgress(console, quiet_seconds=0) as progress:
        for rows in (0, 10, 20, 30):  # reading begins; the next line is due later
            progress(rows, rows / 40)
        assert out.getvalue().count("rows read") == 1 and "25%, 10 rows read, " in out.getvalue()
        assert " rows/s, 0:00 left" in out.getvalue()
    last = out.getvalue().rpartition("left")[2]
    assert ("\x1b[2K" in last) is is_terminal, "the bar is taken away at the end"
    assert is_terminal or out.getvalue().count("\n") == 1


def test_progress_without_a_known_end_shows_rows_alone():
    out = StringIO()
    with RowProgress(Console(file=out, force_terminal=True, width=120), quiet_seconds=0) as progress:
        progress(1234, None)
    assert "1,234 rows read" in out.getvalue() and "%" not in out.getvalue() and "left" not in out.getvalue()


def test_nothing_is_shown_of_a_short_preparation():
    out = StringIO()
    quiet = RowProgress(Console(file=out), quiet_seconds=60)
    before = out.getvalue()
    quiet(99, 0.5)
    assert out.getvalue() == before
