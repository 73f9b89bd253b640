"""The data report: data.json counts what is there, data.html stands alone and shows it, gates close where they must."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distft.config import command
from distft.data.statistics import EXACT_LENGTH, Statistics, percentile, rounded, truncation
from distft.prepare import main
from distft.report.data import closed_gates, render
from distft.run import read_json
from tests.report.conftest import HOSTILE
from tests.report.test_page import CHROMIUM, Tags

Prepare = Callable[..., tuple[int, str]]
LABELS = ("yes", "no", "no")


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Prepare:
    """Gives `prepare(*overrides) -> (exit code, stderr)`, with rows of which some are cleaned away."""
    monkeypatch.chdir(tmp_path)
    rows: list[Any] = [{"prompt": f"Is the harbour of town {i} open?", "completion": LABELS[i % 3]} for i in range(30)]
    rows += [rows[0], {"prompt": "Mail?", "completion": "jo@firma.de"}, {"prompt": HOSTILE, "completion": "N/A"}]
    lines = [*map(json.dumps, rows), '{"prompt": ', json.dumps({"prompt": "Long?", "completion": "word " * 300})]
    Path("rows.jsonl").write_text("\n".join(lines))
    Path("test.jsonl").write_text(json.dumps({"text": "Is the harbour of town 7 open?"}))

    def call(*overrides: str) -> tuple[int, str]:
        fixed = ["model.tiny=true", "data.train=rows.jsonl", "data.eval=null", "cache_dir=cache", "clean=sft"]
        with pytest.raises(SystemExit) as ended:
            command(main, [*fixed, "data.max_bad_fraction=0.1", *overrides])
        return int(ended.value.code or 0), capsys.readouterr().err

    return call


@pytest.mark.slow
def test_the_report_counts_what_became_of_the_rows(prepare: Prepare):
    code, said = prepare("out=report", "clean.leakage.against=[test.jsonl]")
    assert code == 0, said
    facts = read_json(Path("report/data.json"))
    rules = {rule["name"]: (rule["found"], rule["dropped"]) for rule in facts["rules"]}
    assert rules["exact_duplicates"] == (1, 1) and rules["empty"] == (1, 1) and rules["pii"] == (1, 0)
    assert rules["leakage"] == (1, 1)
    assert facts["rows"]["read"] == {"train": 35} and facts["rows"]["bad"] == 1 and facts["rows"]["dropped"] == 4
    assert facts["splits"]["train"]["rows"] == 30
    report = read_json(next(Path("cache").rglob("report.json")))["streams"]["train"]
    shown = f"{report['tokens'] / report['characters']:.3f}"
    assert f"<td>tokens per character</td><td>{shown}</td>" in Path("report/data.html").read_text()
    assert dict(facts["labels"]) == {"yes": 11, "no": 20, "jo@firma.de": 1, "N/A": 1}
    assert [Path(source).name for source, _ in facts["sources"]] == ["rows.jsonl"]
    assert facts["longest"][0][1].endswith("rows.jsonl:35")
    listed = [json.loads(line) for line in Path("report/dropped.jsonl").read_text().splitlines()]
    assert [(each["line"], each["rule"]) for each in listed] == [
        (8, "leakage"), (31, "exact_duplicates"), (33, "empty"), (34, "malformed"), (35, "quality")
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "closed"),
    [
        ("{bad_rows: 0.03}", []),
        ("{bad_rows: 0.02}", ["bad_rows"]),
        ("{duplicates:0,pii:1}", ["duplicates"]),
        ("{leakage: 0, empty: 0}", ["empty"]),
        ("{dropped: 0.05, exact_duplicates: 0.02}", ["dropped", "exact_duplicates"]),
    ],
)
def test_a_share_above_its_limit_exits_with_3(prepare: Prepare, limits: str, closed: list[str]):
    code, said = prepare(f"fail_on={limits}")
    assert code == (3 if closed else 0), said
    assert re.findall(r"fail_on\.(\w+)=", said) == closed


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ("{leakag: 0}", "fail_on.leakag: there is no such gate. Did you mean leakage?"),
        ("{pii: 5}", "fail_on.pii=5 is not a share of the rows, from 0 to 1. Try: fail_on={pii: 0.01}"),
        ("leakage", "fail_on=leakage is not a mapping. Try: 'fail_on={leakage: 0, bad_rows: 0.01}'"),
        ("{a", "is not a mapping"),
    ],
)
def test_a_wrong_gate_is_refused_before_rows_are_read(prepare: Prepare, limits: str, said: str):
    code, stderr = prepare(f"fail_on={limits}")
    assert code == 2 and said in stderr
    assert not Path("cache/data").exists()


def test_the_page_is_self_contained_and_escapes_the_rows(prepare: Prepare):
    prepare("out=report")
    page = Path("report/data.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert not {"script", "iframe", "link", "img", "object"} & {tag for tag, _ in tags.seen}
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page
    assert HOSTILE not in page and "&lt;script&gt;" in page
    assert "jo@firma.de" not in re.sub(r"<h2>Labels</h2>.*?</table>", "", page, flags=re.DOTALL)
    for text in ("What max_length costs", "exact duplicates", "the same pair as", "Labels", "Packing", "1,024 (set)"):
        assert text in page, text


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_its_window(prepare: Prepare, require, tmp_path: Path, width: int):
    prepare("out=report")
    facts = read_json(Path("report/data.json"))
    facts["name"] = "a_very_long_name" * 20
    facts["sources"] = [["/a/very/long/path" * 20, 3]]
    (tmp_path / "page.html").write_text(render(facts).replace("<details class", "<details open class"))
    (tmp_path / "outer.html").write_text(
        f'<iframe id="f" src="page.html" style="width:{width}px;height:900px;border:0"></iframe><script>onload = () => '
        "{ document.title = f.contentDocument.documentElement.scrollWidth; }</script>"
    )
    program = [require("chromium"), *CHROMIUM, "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'p'}"]
    program += ["--dump-dom", f"file://{tmp_path / 'outer.html'}"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=240, check=True)
    measured = re.search(r"<title>(\d+)</title>", done.stdout)
    assert measured, done.stdout[:500]
    assert int(measured[1]) <= width


def test_what_a_max_length_costs_is_counted_in_rows_and_tokens():
    lengths = {10: 5, 100: 4, 1000: 1}
    assert truncation(lengths, 100) == {"max_length": 100, "rows": 1, "row_share": 0.1, "token_share": 900 / 1450}
    assert truncation(lengths, 1000)["rows"] == 0 and truncation({}, 8)["token_share"] == 0
    assert [percentile(lengths, share) for share in (0.5, 0.51, 0.9, 1.0)] == [10, 100, 100, 1000]


def test_long_lengths_are_rounded_up_by_two_percent():
    assert all(rounded(length) == length for length in range(EXACT_LENGTH + 1))
    for length in range(EXACT_LENGTH, 10**6, 997):
        assert length <= rounded(length) <= 1.02 * length


def test_statistics_of_blocks_add_up():
    def counted(rows: list[tuple[int, str]]) -> Statistics:
        found = Statistics()
        for length, answer in rows:
            found.add(length, answer, "a.jsonl", length)
        return found

    rows = [(length, "yes" if length % 2 else "a longer answer that is not a label") for length in range(1, 60)]
    parts = [counted(rows[:20]), counted(rows[20:])]
    assert Statistics.total(part.as_json() for part in parts) == counted(rows)
    assert counted(rows).longest[0] == (59, "a.jsonl:59") and counted(rows).labels == {"yes": 30}


def test_a_gate_that_was_not_measured_is_open():
    assert closed_gates({"gates": {"bad_rows": 0.5}}, {"pii": 0, "bad_rows": 0.4}) == [
        "fail_on.bad_rows=0.4: the share is 0.5 of the rows"
    ]
