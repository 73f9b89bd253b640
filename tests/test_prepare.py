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


@pytest.mark.parametrize(("is_terminal", "shown"), [(False, ["10 rows read"]), (True, ["10 rows read"])])
def test_progress_is_a_line_now_and_then(is_terminal: bool, shown: list[str]):
    out = StringIO()
    progress = RowProgress(Console(file=out, force_terminal=is_terminal, width=80, highlight=False), quiet_seconds=0)
    for rows in (10, 20, 30):  # the next line is due later
        progress(rows)
    lines = out.getvalue().replace("\r", "\n").splitlines()
    assert [line.split(", ")[0].removeprefix("preparing: ") for line in lines if "rows" in line] == shown
    assert ("\r" in out.getvalue()) is is_terminal
    quiet = RowProgress(Console(file=out), quiet_seconds=60)
    before = out.getvalue()
    quiet(99)
    assert out.getvalue() == before
