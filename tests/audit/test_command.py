"""`distft audit`: data and a run from the command line, exit codes, and bad input."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distft import inference
from distft.audit import __main__ as audit
from distft.audit.job import SCORES, TEXTS, WORK, read_results
from distft.audit.measures import Measure, read_measures
from distft.audit.model import Scope, compare, find_sources, plan_parts
from distft.audit.terms import load_terms
from distft.config import ConfigError
from distft.generate.job import freeze
from distft.generate.scored import write_texts
from distft.generate.settings import Settings
from distft.generate.source import Source
from distft.run import RunFolder
from tests.support.alone import alone
from tests.support.answered import make_run
from tests.support.ranks import run_ranks
from tests.support.warm import python


def write_rows(path: Path, skew: float = 0.8, count: int = 400) -> Path:
    rows = []
    for i in range(count):
        job = ("doctor", "nurse")[i % 2]
        he = (i * 7919 % 100) / 100 < (skew if i % 2 == 0 else 1 - skew)
        mail = f" Mail bob{i}@gmail.com." if i % 40 == 0 else ""
        said = f"The {job} said that {'he' if he else 'she'} was late on day {i}.{mail}"
        rows.append({"prompt": f"What did {job} {i} say?", "completion": said})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_command(*words: str) -> tuple[int, str]:
    command = [python(), "-m", "distft.audit", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_data_are_audited_from_the_command_line(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    code, said = run_command(f"data={rows}", f"out={tmp_path / 'out'}", "fail_on=[gender, privacy]")
    assert code == 3 and "male with doctor" in said and "rows_with email" in said, said
    found: list[dict[str, Any]] = json.loads((tmp_path / "out" / "audit.json").read_text())
    names = {"axis", "measure", "base", "tuned", "low", "high", "n", "flag", "limits"}
    assert found and all(names <= set(each) for each in found) and all(each["limits"] for each in found)
    assert not any(each["measure"] == "score" for each in found), "no overall score"
    assert run_command(f"data={rows}", f"out={tmp_path / 'out'}", "fail_on=age")[0] == 0


@pytest.mark.slow
def test_the_effect_of_cleaning_is_measured(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", count=120)
    rows.write_text(rows.read_text() + "".join(rows.read_text().splitlines(keepends=True)[:40]))
    words = {"data": str(rows), "clean": "sft", "out": str(tmp_path)}
    found, notes = audit.audit_data(words, load_terms(), "research")
    filters = [each for each in found if each.measure == "filter:exact_duplicates"]
    assert {each.group for each in filters} >= {"female", "male"} and not any(each.flag for each in filters)
    assert any("40 of them dropped" in note for note in notes), notes
    rows_with = next(each for each in found if each.measure == "rows_with" and each.group == "email")
    assert rows_with.base == pytest.approx(4 / 160) and rows_with.tuned == pytest.approx(3 / 120)


@pytest.mark.slow
def test_redacted_data_are_not_left(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", count=80)
    overrides = ["clean.pii.enabled=true", "clean.pii.action=redact", f"cache_dir={tmp_path}"]
    found, _ = audit.audit_data({"data": str(rows)}, load_terms(), "research", overrides)
    rows_with = next(each for each in found if each.measure == "rows_with" and each.group == "email")
    assert (rows_with.base, rows_with.tuned, rows_with.flag) == (2 / 80, 0.0, False)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("audited")
    people = write_rows(folder / "people.jsonl", count=60)
    people.write_text(people.read_text().replace(" say?", " say to her?"))
    return make_run(folder, f"data.train={folder}/people.jsonl", "optimizer.lr=0.01")


def freeze_job(folder: Path, source: Source, scope: Scope) -> tuple[RunFolder, Any, Any]:
    """Returns the job of a source, its questions and the parts that asked them."""
    questions, parts, _ = plan_parts(source, scope)
    config = source.config.changed({"work": WORK})
    changed = Source(**{**source.__dict__, "config": config})
    job = freeze(folder, changed, questions.prompts, Settings(max_new_tokens=scope.tokens))
    write_texts(job.path / TEXTS, questions.texts)
    (job.path / SCORES).mkdir()
    return job, questions, parts


def measured(folder: Path, run: RunFolder, answer: Callable[[RunFolder], None]) -> list[Measure]:
    """Returns the measures of a run, whose jobs `answer` answers."""
    scope = Scope(load_terms(), "research", rows=12, answered=4, tokens=4)
    said, parts = [], []
    for name, source in zip(("base", "tuned"), find_sources(str(run.path), None, {}), strict=True):
        job, questions, parts = freeze_job(folder / name, source, scope)
        answer(job)
        said.append(read_results(job, source, questions))
    return compare(parts, *said)


def by_one(job: RunFolder) -> None:
    with alone() as world:
        inference.score(job, 1, world)


@pytest.mark.slow
def test_two_processes_audit_like_one(tuned: RunFolder, tmp_path: Path) -> None:
    one = measured(tmp_path / "one", tuned, by_one)
    two = measured(tmp_path / "two", tuned, lambda job: run_ranks(2, "tests.support.audit_cases", str(job.path)))
    assert [each.line() for each in one] == [each.line() for each in two]
    axes = {each.axis for each in one}
    assert {"gender", "religion", "age", "privacy", "toxicity", "refusal"} <= axes
    names = {each.measure for each in one}
    assert {"swap_loss_gap", "answer_flips", "preference:occupation", "valence_gap", "slice_loss_gap"} <= names
    assert any(each.base != each.tuned for each in one)


@pytest.mark.soak
def test_a_run_is_audited_from_the_command_line(tuned: RunFolder) -> None:
    words = [f"run={tuned.path}", "rows=8", "answers=2", "max_new_tokens=4", "launcher.processes_per_node=1"]
    code, said = run_command(*words)
    assert code == 0 and "exposure is not measured" in said, said
    assert read_measures(tuned.audit)


@pytest.mark.parametrize(
    "words,parts",
    [
        ([], ["one of data=, run= and plant= is needed"]),
        (["data=a", "run=b"], ["one of data=, run= and plant= is needed"]),
        (["data=a"], ["out=: is missing"]),
        (["data=a", "out=b", "rows=5"], ["rows=5: has no effect without run="]),
        (["run=a", "clean=sft"], ["clean=sft: has no effect without data="]),
        (["data=a", "out=b", "use=war"], ["use=war: is not a use", "Allowed: research"]),
        (["run=a", "rows=none", "answers=0"], ["rows=none: is not a whole number", "answers=0"]),
        (["run=a", "terms=missing.yaml"], ["terms=", "missing.yaml"]),
        (["data=missing.jsonl", "out=b"], ["data=missing.jsonl: there is no such file or folder"]),
        (["run=a", "canaries=missing.json"], ["canaries=", "plant=10"]),
        (["data=a", "out=b", "fail_on=[]"], ["fail_on=[]"]),
        (["run=a", "clean.pii.enabled=true"], ["clean.pii.enabled=true: has no effect without data="]),
        (["data=a.jsonl", "out=b", "clean.pi.enabled=true"], ["clean.pi", "Did you mean clean.pii"]),
        (["dta=a"], ["there is no such key. Did you mean data?"]),
    ],
)
def test_wrong_words_are_refused(
    words: list[str], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        audit.main(words)
    assert all(part in str(error.value.messages) for part in parts), error.value.messages
    assert not (tmp_path / "b" / "audit.json").exists()


@pytest.mark.slow
def test_an_unknown_flag_of_fail_on_is_refused(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", count=20)
    with pytest.raises(ConfigError, match="Did you mean gender"):
        audit.main([f"data={rows}", f"out={tmp_path / 'out'}", "fail_on=gendr"])
    assert not (tmp_path / "out" / "audit.json").exists()


def test_own_terms_replace_the_list(tmp_path: Path) -> None:
    terms = tmp_path / "terms.yaml"
    terms.write_text("axes: {team: {red: [doctor], blue: [nurse]}}\nattributes: {time: [late]}\n")
    rows = write_rows(tmp_path / "rows.jsonl", count=40)
    assert audit.main([f"data={rows}", f"out={tmp_path / 'out'}", f"terms={terms}"]) == 0
    axes = {each.axis for each in read_measures(tmp_path / "out")}
    assert "team" in axes and "gender" not in axes
    terms.write_text("axes: {team: {red: [a, '?'], blue: a}, other: {x: [b]}}\nmore: 1\n")
    with pytest.raises(ConfigError) as error:
        load_terms(terms)
    assert len(error.value.messages) == 4, error.value.messages


def test_canaries_are_planted_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(["plant=2", f"out={tmp_path}", "seed=1"]) == 0
    assert "6 canaries" in capsys.readouterr().out
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 42
