"""Every number of the pages names its source, and follows it."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from distft.goodput import PARTS, Goodput
from distft.report import compare
from distft.report.facts import gather
from distft.report.page import render
from distft.report.sweep import page as sweep_page
from distft.report.sweep.jobs import read_sweep
from distft.run import RunFolder, read_json, write_json
from tests.report.sweep.conftest import of_seeds, write_sweep

VOID = {"meta", "wbr", "br", "hr", "input"}
UNSEEN = {"style", "title", "script", "defs", "metadata"}
REPORT = {
    "streams": {"train": {"read": 120, "bad": 5, "untrained": 2, "dropped": 3, "truncated": 7}},
    "splits": {"train": {"rows": 100}, "eval": {"rows": 10}},
}
METRICS = {
    "step": 8, "at": "best", "rows": 10, "metrics": {"loss": {"value": 1.5, "stderr": 0.25, "n": 10}},
    "slices": {"source": {"a.jsonl": {"loss": {"value": 1.75, "stderr": 0.5, "n": 6}}}},
    "against": {"loss": {"difference": -1.0, "low": -1.25, "high": -0.75, "p": 0.125}},
}  # fmt: skip
AUDIT = [{"axis": "gender", "measure": "gap", "base": 0.125, "tuned": 0.5, "low": 0.25, "high": 0.75, "n": 40,
          "flag": True, "limits": "English alone"}]  # fmt: skip


class Texts(HTMLParser):
    """Collects the texts that a reader sees, each with the sources of the elements around it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.around: list[tuple[str, str]] = []
        self.found: list[tuple[str, str]] = []  # sources and text
        self.feed(page)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Of elements without content, as in <path/>."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.around.append((tag, dict(attrs).get("data-source") or ""))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.around.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if not any(tag in UNSEEN for tag, _ in self.around):
            self.found.append((" ".join(source for _, source in self.around if source), data))

    def of(self, source: str) -> str:
        return " ".join(text.strip() for sources, text in self.found if source in sources.split())


@pytest.fixture
def full_run(make_run: Callable[..., RunFolder]) -> RunFolder:
    """A run folder with every file that the page reads."""
    run = make_run()
    write_json(Path(run.read_plan().data_dir or "") / "report.json", REPORT)
    seconds = dict.fromkeys(PARTS, 0.0) | {"productive": 800.0, "lost": 100.0, "checkpoint": 50.0, "start": 50.0}
    goodput = Goodput(seconds, lost_steps=7, failures=2, saves=5, step_seconds=10.0).as_json()
    write_json(run.goodput, goodput)
    write_json(run.path / "effective.json", {"engine": {"shards": 2}})
    for file, content in (("eval/best/metrics.json", METRICS), ("audit/audit.json", AUDIT)):
        (run.path / file).parent.mkdir(parents=True, exist_ok=True)
        write_json(run.path / file, content)
    (run.path / "human" / "study").mkdir(parents=True)
    write_json(run.path / "human" / "study" / "analysis.json", {"win_rate": {"value": 0.625, "n": 48}})
    lines = [{"step": step, "prompt": "2 and 2", "expected": "4", "completion": f"{step}"} for step in (0, 8)]
    (run.path / "eval" / "samples.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return run


def files_of(run: RunFolder) -> dict[str, Path]:
    prepared = Path(run.read_plan().data_dir or "")
    found = {file.relative_to(run.path).as_posix(): file for file in run.path.rglob("*") if file.is_file()}
    return found | {f"prepared/{file.name}": file for file in prepared.iterdir()}


def without_source(page: str) -> list[str]:
    return [text for sources, text in Texts(page).found if re.search(r"\d", text) and not sources]


@pytest.mark.slow
def test_every_number_names_a_file_of_the_run(full_run: RunFolder) -> None:
    page = render(gather(full_run))
    assert without_source(page) == []
    sources = {source for found in re.findall(r'data-source="([^"]*)"', page) for source in found.split()}
    missing = {source for source in sources if source.partition("#")[0] not in files_of(full_run)}
    assert missing - {"timeline.jsonl"} == set() and len(sources) > 60


@pytest.mark.slow
def test_a_number_without_a_source_is_found(full_run: RunFolder) -> None:
    page = render(gather(full_run)).replace("</footer>", "and 17 more</footer>")
    assert len(without_source(page)) == 1


def keys_of(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the path and value of every number of a JSON value."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from keys_of(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def put(value: Any, path: str, number: float) -> Any:
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    inner = value
    for key in parents:
        inner = inner[key]
    inner[last] = number
    return value


CHANGED = ("prepared/report.json", "eval/best/metrics.json", "goodput.json", "effective.json", "audit/audit.json",
           "human/study/analysis.json")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_source_changes_its_element(full_run: RunFolder, name: str) -> None:
    full_run.metrics.write_text("")  # drawings take time and are tested alone
    before, file = Texts(render(gather(full_run))), files_of(full_run)[name]
    text, tried = file.read_text(), 0
    for path, number in keys_of(read_json(file)):
        source = f"{name}#{path}"
        if not before.of(source):
            continue
        write_json(file, put(json.loads(text), path, number + 33))
        assert Texts(render(gather(full_run))).of(source) != before.of(source), source
        tried += 1
    assert tried or name in ("eval/best/metrics.json", "audit/audit.json")
    if not tried:  # the source of a line is its object
        write_json(file, json.loads(re.sub(r"\d\.(\d)", r"9.\1", text)))
        assert Texts(render(gather(full_run))).found != before.found


@pytest.mark.slow
def test_a_changed_row_changes_the_result(full_run: RunFolder) -> None:
    source = "metrics.jsonl#eval.8.loss"
    assert "1.5" in Texts(render(gather(full_run))).of(source)
    full_run.metrics.write_text(full_run.metrics.read_text().replace('"loss": 1.5', '"loss": 1.25'))
    text = Texts(render(gather(full_run))).of(source)
    assert "1.250" in text and "fell by 50.0%" in text


@pytest.mark.slow
def test_the_comparison_names_the_run_of_each_number(full_run: RunFolder) -> None:
    other = RunFolder(full_run.path.with_name("other"))
    shutil.copytree(full_run.path, other.path)
    other.config.write_text(other.config.read_text().replace("lr: 0.0001", "lr: 0.0002"))
    page = compare.render([full_run, other])
    assert without_source(page) == []
    assert Texts(page).of("other/config.yaml#optimizer.lr") == "0.0002"
    assert "2.5 → 1.5" in Texts(page).of("other/metrics.jsonl#eval.8.loss")


@pytest.mark.slow
def test_the_page_of_a_sweep_names_the_runs_of_its_numbers(tmp_path: Path) -> None:
    jobs = [*of_seeds(1e-4, 1.5, 1.25), *of_seeds(1e-3, 1.75, 1.625)]
    folder = write_sweep(tmp_path / "rates", jobs, ["optimizer.lr", "seed"])
    page = sweep_page.render(read_sweep(folder))
    assert without_source(page) == []
    sources = {
        source.partition("#")[0] for found in re.findall(r'data-source="([^"]*)"', page) for source in found.split()
    }
    assert {f"{job:02d}/metrics.jsonl" for job in range(4)} <= sources
    assert "1.375" in Texts(page).of("00/metrics.jsonl#eval.*.loss"), "the mean over seeds names both runs"
