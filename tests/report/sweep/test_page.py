"""A sweep's page is self-contained, runs no code, shows its files, and fits any window of a real browser.

sweep.csv has every run with unrounded numbers.
"""

import csv
import re
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from distft.config.command import command
from distft.report.__main__ import main
from distft.report.sweep.jobs import Sweep
from distft.report.sweep.page import render, write_table
from tests.report.conftest import HOSTILE
from tests.report.sweep.conftest import Run, grid, large, of_seeds, write_sweep
from tests.report.test_page import CHROMIUM, Tags

RATE = ["optimizer.lr", "seed"]
FAILED = Run({"optimizer.lr": 1.0, "seed": 0}, (), "failed", "ValueError: no targets", "/runs/03/rank-1.log")


class Words(HTMLParser):
    """The text of a page as it is read, its tables as lists of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.cells: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.cells and self.cells[-1]:
            self.cells[-1][-1] += data.strip()


def read(page: str) -> Words:
    words = Words()
    words.feed(page)
    return words


def hostile() -> tuple[list[Run], list[str]]:
    keys = ["model.path", "<b>&\"'"]
    runs = [Run(dict.fromkeys(keys, f"{HOSTILE}{n}"), (3.0, 2.0 + n)) for n in range(3)]
    return [*runs, Run(dict.fromkeys(keys, HOSTILE), (3.0,), "failed", HOSTILE, HOSTILE)], keys


@pytest.mark.slow
def test_nothing_is_fetched_and_nothing_runs(make_sweep: Callable[..., Sweep]):
    page = render(make_sweep(*large()))
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
def test_text_from_a_sweep_is_never_markup(make_sweep: Callable[..., Sweep]):
    page = render(make_sweep(*hostile(), name=HOSTILE))
    assert "<script" not in page and "<b>&" not in page
    assert page.count("&lt;script&gt;") >= 20
    tags = Tags()
    tags.feed(page)
    assert not [attributes for _, attributes in tags.seen if any(name.startswith("on") for name in attributes)]


@pytest.mark.slow
def test_the_ranked_table_holds_the_numbers_of_each_setting(make_sweep: Callable[..., Sweep]):
    runs = [*of_seeds(1e-3, 1.1, 1.3, 1.53), *of_seeds(1e-4, 1.0, 1.2, 1.4), *of_seeds(1e-2, 1.3, 1.0, 1.8)]
    table = read(render(make_sweep(runs, RATE))).cells
    interval = "0.7032 to 1.6968"  # 1.2 -+ 4.3027 * 0.2 / sqrt(3)
    assert table[1] == ["1", "1e-4", "1.2000", interval, "", "3", "0.2", "–", "0.06", "10,800"]
    assert table[2][:3] == ["2", "0.001", "1.3100"] and table[2][7] == "0.1100 (0.0670 to 0.1530)"
    assert table[3][:3] == ["3", "0.01", "1.3667"] and table[3][7].endswith("≈ not significant")


@pytest.mark.slow
def test_without_repeated_seeds_there_is_no_column_of_intervals(make_sweep: Callable[..., Sweep]):
    words = read(render(make_sweep([*of_seeds(1e-3, 1.1), *of_seeds(1e-4, 1.0)], RATE)))
    assert words.cells[1] == ["1", "1e-4", "1.0000", "1", "–", "0.02", "3,600"]
    assert "Every setting has one seed: no interval can be given" in words.text


@pytest.mark.slow
def test_the_command_of_the_best_run_is_given_whole(make_sweep: Callable[..., Sweep]):
    page = render(make_sweep([*of_seeds(1e-3, 1.1), *of_seeds(0.00023001460293742767, 1.0)], RATE))
    command_line = "python -m distft.launch name=01 optimizer.lr=0.00023001460293742767 seed=0"
    assert f'">{command_line}</pre>' in page
    assert ".command { user-select: all;" in page


@pytest.mark.slow
def test_failures_come_first_with_their_last_line_and_log(make_sweep: Callable[..., Sweep]):
    text = read(render(make_sweep([*of_seeds(1e-3, 1.1), FAILED, FAILED], RATE))).text
    assert (
        text.index("ValueError: no targets") < text.index("log: /runs/03/rank-1.log") < text.index("The best setting")
    )
    assert text.count("ValueError: no targets") == 1  # of both runs
    assert "What failed" not in read(render(make_sweep(of_seeds(1e-3, 1.1), RATE))).text


@pytest.mark.slow
def test_every_run_is_listed_with_its_state_and_loss(make_sweep: Callable[..., Sweep]):
    waiting = Run({"optimizer.lr": 1e-3, "seed": 1}, state="pending")
    running = Run({"optimizer.lr": 1e-3, "seed": 2}, (3.0, 0.5), "running")
    cells = read(render(make_sweep([*of_seeds(1e-3, 1.1), FAILED, waiting, running], RATE))).cells
    listed = {row[0]: row[1:4] for row in cells if re.fullmatch(r"0\d", row[0])}
    assert listed == {
        "00": ["completed", "1.1000", "4"], "01": ["failed", "–", "–"], "02": ["pending", "–", "–"],
        "03": ["running", "0.5000so far, not ranked", "4"],
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "runs, said, drawn",
    [
        ([], "Nothing is ranked: the sweep has no runs.", 0),
        ([Run({"optimizer.lr": 1e-4}, state="pending")] * 2, "Nothing is ranked yet", 0),
        ([Run({"optimizer.lr": 1e-4}, (3.0, 2.0), "running")] * 2, "Nothing is ranked yet", 2),
        ([FAILED, FAILED], "Nothing is ranked: every run failed.", 0),
        ([Run({"optimizer.lr": 1e-4}, ())] * 2, "evaluated no held-out rows (data.eval)", 0),
        (of_seeds(1e-4, 2.0), "there is no other", 4),
    ],
)
def test_a_sweep_with_little_to_show_has_a_page_and_files(runs, said, drawn, tmp_path: Path, capsys):
    folder = write_sweep(tmp_path / "sweep", runs, RATE)
    assert main([f"sweep={folder}"]) == 0
    page = (folder / "report.html").read_text()
    assert said in read(page).text
    assert page.count('<svg role="img"') == drawn
    assert len((folder / "sweep.csv").read_text().splitlines()) == 1 + len(runs)


@pytest.mark.slow
def test_drawings_have_a_text_alternative(make_sweep: Callable[..., Sweep]):
    page = render(make_sweep([*of_seeds(1e-3, 1.1, 1.0), *of_seeds(1e-4, 1.2)], RATE))
    tags = Tags()
    tags.feed(page)
    labels = [attributes["aria-label"] for tag, attributes in tags.seen if tag == "svg" and "role" in attributes]
    assert labels[0] == "Held-out loss over optimizer.lr. Lowest: 1.0000 at 0.001, 1.2000 at 1e-4."
    assert len(labels) == 2 + 2 + 2  # per key, curves and parallel axes each wide and narrow


@pytest.mark.slow
def test_drawings_of_the_page_take_every_colour_from_it(make_sweep: Callable[..., Sweep]):
    page = render(make_sweep(*large()))
    for svg in re.findall(r'<svg role="img".*?</svg>', page, re.S):
        assert not re.findall(r"(?:fill|stroke): ?#[0-9a-f]{6}", svg)


@pytest.mark.slow
def test_ids_of_clip_paths_and_markers_differ_between_drawings(make_sweep: Callable[..., Sweep]):
    page = render(make_sweep(grid()))
    used = [
        set(re.findall(r'(?:url\(|href=")#(\w+)', svg)) for svg in re.findall(r'<svg role="img".*?</svg>', page, re.S)
    ]
    assert sum(map(len, used)) == len(set().union(*used)) > 0


@pytest.mark.slow
def test_the_command_writes_the_same_bytes_twice(tmp_path: Path, capsys):
    folder = write_sweep(tmp_path / "sweep", grid())
    made = []
    for _ in range(2):
        assert main([f"sweep={folder}"]) == 0
        made.append([(folder / name).read_bytes() for name in ("report.html", "sweep.csv", "sweep.svg")])
    assert capsys.readouterr().out.split() == [str(folder / "report.html")] * 2
    assert made[0] == made[1]
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "run=, sweep= or runs=: none is given"),
        (["run=a", "sweep=b"], "run=a sweep=b: more than one is given"),
        (["sweep=/nowhere"], "sweep=/nowhere: not a sweep folder"),
        (["swep=x"], "swep=x: there is no such key"),
    ],
)
def test_a_wrong_call_exits_2_with_the_reason(arguments, said, capsys):
    with pytest.raises(SystemExit) as end:
        command(main, arguments)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, pytest.param(1280, marks=pytest.mark.soak)])
@pytest.mark.parametrize(
    "case",
    [pytest.param(large, marks=pytest.mark.soak), hostile],
    ids=["60 runs", "long and hostile words"],
)
def test_no_window_scrolls_sideways(case, make_sweep, require, tmp_path: Path, width: int):
    runs, keys = case()
    runs.append(Run({keys[0]: "/a/very/long/path" * 20}, (3.0, 0.1)))
    (tmp_path / "page.html").write_text(render(make_sweep(runs, keys, name="long-name-" * 20)))
    # The page forbids scripts, so a frame of the wanted width holds it and the outer page measures.
    (tmp_path / "outer.html").write_text(
        f'<iframe id="f" src="page.html" style="width:{width}px;height:900px;border:0"></iframe><script>onload = () => '
        "{ document.title = f.contentDocument.documentElement.scrollWidth; }</script>"
    )
    chromium = [require("chromium"), *CHROMIUM, "--allow-file-access-from-files"]
    chromium += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{tmp_path / 'outer.html'}"]
    done = subprocess.run(chromium, capture_output=True, text=True, timeout=240, check=True)
    measured = re.search(r"<title>(\d+)</title>", done.stdout)
    assert measured, done.stdout[:500]
    assert int(measured[1]) <= width


def rows_of(sweep, folder: Path) -> list[dict[str, str]]:
    write_table(sweep, folder / "sweep.csv")
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_run_is_a_row_with_all_its_numbers(make_sweep, tmp_path: Path):
    runs = [
        Run({"optimizer.lr": 0.00023001460293742767, "seed": 3}, losses=(3.0, 1.23456789)),
        Run({"optimizer.lr": None, "seed": 4}, (), "failed", "ValueError: a, b\nand more"),
        Run({"optimizer.lr": True, "seed": 5}, state="pending"),
    ]
    done, failed, waiting = rows_of(make_sweep(runs, ["optimizer.lr", "seed"]), tmp_path)
    assert done == {
        "optimizer.lr": "0.00023001460293742767", "seed": "3", "state": "completed", "objective": "1.23456789",
        "objective_step": "4", "train_loss": "0.5", "tokens": "3600", "process_hours": "0.02",
        "peak_memory_gib": "3.25", "run": "00", "reason": "",
    }  # fmt: skip
    assert (failed["optimizer.lr"], failed["reason"]) == ("null", "ValueError: a, b\nand more")
    assert (waiting["optimizer.lr"], waiting["state"], waiting["objective"]) == ("true", "pending", "")


def test_no_csv_cell_is_a_formula(make_sweep, tmp_path: Path):
    runs = [Run({"optimizer.lr": "-1e-5"}, reason="=cmd|'/c calc'!A1"), Run({"optimizer.lr": "@SUM(1)"}, reason="-x")]
    first, second = rows_of(make_sweep(runs, ["optimizer.lr"]), tmp_path)
    assert (first["reason"], second["reason"], second["optimizer.lr"]) == ("'=cmd|'/c calc'!A1", "'-x", "'@SUM(1)")
    assert first["optimizer.lr"] == "-1e-5"
