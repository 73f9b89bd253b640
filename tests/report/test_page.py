"""The page is self-contained, runs no code, and fits any window of a real browser."""

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markupsafe import Markup

from distft.config.command import command
from distft.goodput import PARTS, Goodput
from distft.report.__main__ import main
from distft.report.facts import gather
from distft.report.page import answer_text, render
from distft.run import write_json
from tests.report.conftest import HOSTILE, ROWS

CHROMIUM = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


@pytest.mark.slow
def test_nothing_is_fetched_and_nothing_runs(make_run):
    page = render(gather(make_run()))
    tags = Tags()
    tags.feed(page)
    assert not {"script", "iframe", "link", "img", "object"} & {tag for tag, _ in tags.seen}
    assert "default-src 'none'" in page
    for tag, attributes in tags.seen:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"<{tag} {name}>"
            if name in ("src", "href", "xlink:href"):
                assert (value or "").startswith("#"), f"<{tag} {name}={value}>"
    assert "@import" not in page
    assert not re.search(r"url\((?!['\"]?#)", page)


@pytest.mark.slow
def test_text_from_a_run_is_never_markup(make_run):
    run = make_run(model={"path": HOSTILE}, name=HOSTILE)
    run.command.write_text(HOSTILE)
    run.write_status(state="failed", error={"message": HOSTILE})
    page = render(gather(run))
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;") >= 5


@pytest.mark.slow
def test_the_page_shows_settings_and_results(make_run):
    run = make_run()
    seconds = dict.fromkeys(PARTS, 0.0) | {"productive": 800.0, "lost": 100.0, "checkpoint": 50.0, "start": 50.0}
    write_json(run.goodput, Goodput(seconds, lost_steps=7, failures=2, saves=5, step_seconds=10.0).as_json())
    page = render(gather(run))
    for text in (
        "80.0% of 16m40s, 2 failures",
        "10.0%, 1m40s, 7 steps",
        "5.0%, 50.0 s, 5 saves",
        "10, by Young and Daly: 10 s per save, a failure every 8m20s",
        ">2.500</span> → <span",
        ">1.500</span>",
        "-40.0 %",
        "/models/real",
        "134,515,008",
        "zero3 (this run)",
        "dropped · no target",
        "node-1",
    ):
        assert text in page, text


def test_a_failed_run_shows_its_error_first(make_run):
    run = make_run(rows=[], state="failed")
    run.write_status(error={"rank": 1, "host": "n", "type": "ValueError", "message": "no targets", "traceback": "File"})
    page = render(gather(run))
    assert (
        page.index("Rank 1 on n: ValueError: no targets") < page.index("<pre data-source") < page.index("Held-out rows")
    )
    assert "so no change is shown" in page and ">None<" not in page


@pytest.mark.slow
def test_warnings_of_the_run_are_shown(make_run):
    row = {"step": 3, "split": "warning", "text": "loss spike of 9.1"}
    assert "Warnings (1)" in (page := render(gather(make_run(rows=[*ROWS, row])))) and "loss spike of 9.1" in page


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\n" * 500, "<i>white space alone</i>"), ("", "<i>empty</i>"), ("a\n\n \n\nb\n", "a\n\nb"), (HOSTILE, HOSTILE)],
)
def test_line_breaks_of_an_answer_do_not_fill_the_page(text, shown):
    assert answer_text(text) == shown and isinstance(answer_text(text), Markup) == shown.startswith("<i>")


@pytest.mark.slow
def test_the_command_writes_page_and_curves(make_run, capsys):
    run = make_run()
    assert main([f"run={run.path}"]) == 0
    assert capsys.readouterr().out.strip() == str(run.path / "report.html")
    assert {"report.html", "curves.svg", "curves.png"} <= {file.name for file in run.path.iterdir()}


@pytest.mark.slow
def test_json_has_the_numbers_of_the_page(make_run, capsys):
    run = make_run()
    assert main([f"run={run.path}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["page"] == str(run.path / "report.html") and found["state"] == "completed"
    assert found["metrics"]["loss"] == {"before": 2.5, "after": 1.5}
    assert found["numbers"]["held-out rows"] == {"text": "10", "source": "plan.json#eval_rows"}
    assert main([f"runs=[{run.path},{run.path}]", "--json"]) == 0
    assert [each["run"] for each in json.loads(capsys.readouterr().out)["runs"]] == [str(run.path)] * 2


@pytest.mark.parametrize("arguments", [[], ["run="], ["run=/nowhere"], ["rum=x"], ["run=a", "b"]])
def test_a_wrong_call_exits_2_with_the_reason(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        command(main, arguments)
    assert end.value.code == 2
    assert "run" in capsys.readouterr().err


def test_a_wrong_value_in_a_frozen_config_is_named(make_run, capsys):
    run = make_run(seed="three")
    with pytest.raises(SystemExit) as end:
        command(main, [f"run={run.path}"])
    said = capsys.readouterr().err
    assert end.value.code == 2 and "seed=three" in said and "Try: another run" in said


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, pytest.param(1280, marks=pytest.mark.soak)])
def test_no_window_scrolls_sideways(make_run, require, tmp_path: Path, width: int):
    page = render(gather(make_run(model={"path": "/a/very/long/path" * 20})))
    # The page forbids scripts, so a frame of the wanted width holds it and the outer page measures.
    (tmp_path / "page.html").write_text(page)
    (tmp_path / "outer.html").write_text(
        f'<iframe id="f" src="page.html" style="width:{width}px;height:900px;border:0"></iframe><script>onload = () => '
        "{ document.title = f.contentDocument.documentElement.scrollWidth; }</script>"
    )
    command = [
        require("chromium"),
        *CHROMIUM,
        "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command += ["--dump-dom", f"file://{tmp_path / 'outer.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    measured = re.search(r"<title>(\d+)</title>", done.stdout)
    assert measured, done.stdout[:500]
    assert int(measured[1]) <= width
