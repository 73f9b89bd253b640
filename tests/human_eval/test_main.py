"""`distft human_eval` as it is typed: errors all at once, secrets, and the whole loop on a real run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distft.config import ConfigError
from distft.data.formats import load_format
from distft.human_eval.__main__ import VERBS, help_text, main
from distft.human_eval.study import Study
from tests.human_eval.test_analyze import analysis
from tests.support.answered import make_base, make_run
from tests.support.studies import Served, make_study, plain_texts, write_answers


def errors(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        main(list(words))
    return "\n".join(caught.value.messages)


def test_an_unknown_verb_has_a_suggestion():
    assert "Did you mean analyze? Allowed: plan, create, serve, status, analyze, export" in errors("analyse")
    assert "expected a verb" in errors() and "there is no such key. Did you mean study?" in errors("status", "studdy=x")


def test_help_lists_the_keys_of_each_verb():
    everything = help_text([])
    for verb in VERBS:
        assert f"\n{verb}: " in everything and f"\n{verb}: " in help_text([verb, "--help"])
    assert "overlap=" in help_text(["create"]) and "hourly=" not in help_text(["create"])


def test_everything_wrong_with_a_study_is_said_at_once(tmp_path: Path):
    (tmp_path / "there").mkdir()
    answers = write_answers(tmp_path / "a.jsonl", ["x"])
    found = errors(
        "create", f"study={tmp_path / 'there'}", f"answers=[{answers},{tmp_path}/none.jsonl]", "raters=2", "overlap=3",
        "prompts=eval", "repeat=2", "type=pairwize", "consent=/no/such", "runs=[x]", "max_new_tokens=3",
    )  # fmt: skip
    for part in ("exists. Try: another folder", "none.jsonl: No such file", "prompts=eval: the prompts are those of",
                 "repeat=2: expected a number from 0 to 1", "type=pairwize: is not a choice. Did you mean pairwise?",
                 "consent=/no/such: No such file or directory", "2 files for 1 runs", "runs=x: ",
                 "max_new_tokens=: nothing is generated"):  # fmt: skip
        assert part in found, part


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "runs=, prompts=: both are needed"), (["answers=[A]"], "a comparison needs two"),
        (["answers=[A,B]", "overlap=3"], "overlap=3: is more than the 2 raters. Try: overlap=2"),
        (["answers=[A,B]", "items=9"], "items=9: there are 2 prompts"),
        (["answers=[A,B]", "criteria=[x]"], "are the scales of type=rating"),
        (["answers=[A,B]", "type=rating", "attention=0.1"], "has no attention checks"),
        (["answers=[A,B]", "practice=P"], "P:1: expected an object with prompt, a, b and expected"),
        (["answers=[A,C]"], "did not answer the same prompts"), (["answers=[A,B"], "expected a list such as [a,b]"),
    ],
)  # fmt: skip
def test_a_study_that_cannot_be_is_refused(tmp_path: Path, words: list[str], text: str):
    for name in "AB":
        write_answers(tmp_path / name, [name, name])
    write_answers(tmp_path / "C", ["x"])
    (tmp_path / "P").write_text('{"prompt": "x"}\n')
    given = [word.replace("[A", f"[{tmp_path}/A").replace(",B", f",{tmp_path}/B").replace(",C", f",{tmp_path}/C")
             .replace("=P", f"={tmp_path}/P") for word in words]  # fmt: skip
    assert text in errors("create", f"study={tmp_path / 'study'}", "raters=2", *given)
    assert not list(tmp_path.glob("*study*")) and not list(tmp_path.glob(".*"))


def test_the_files_of_a_study_are_private(tmp_path: Path):
    (tmp_path / "before").touch()
    study = make_study(tmp_path, plain_texts(3), "raters=2")
    (tmp_path / "after").touch()
    assert (tmp_path / "after").stat().st_mode == (tmp_path / "before").stat().st_mode
    for path in (study.path, *study.path.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    assert study.links_file.stat().st_mode & 0o777 == 0o600
    links = json.loads(study.links_file.read_text())
    tokens = [*(each["token"] for each in links["raters"]), links["admin"]["token"]]
    others = [file for file in study.path.rglob("*") if file.is_file() and file != study.links_file]
    assert len(set(tokens)) == 3 and not any(t.encode() in file.read_bytes() for t in tokens for file in others)


def test_the_same_seed_draws_the_same_study_with_other_tokens(tmp_path: Path):
    one, other, third = (
        make_study(tmp_path / name, plain_texts(9), "raters=2", f"seed={seed}")
        for name, seed in (("x", 5), ("y", 5), ("z", 6))
    )
    assert one.items_file.read_bytes() == other.items_file.read_bytes() != third.items_file.read_bytes()
    assert one.read_key().items == other.read_key().items
    assert one.links_file.read_text() != other.links_file.read_text()


def test_own_texts_and_practice_are_used(tmp_path: Path):
    (tmp_path / "consent.md").write_text("Our consent.")
    (tmp_path / "practice.jsonl").write_text('{"prompt": "P?", "a": "yes", "b": "no", "expected": "b", "why": "W."}\n')
    words = [f"consent={tmp_path / 'consent.md'}", f"practice={tmp_path / 'practice.jsonl'}", "title=Ours", "items=2"]
    study = make_study(tmp_path, plain_texts(5), "raters=1", *words)
    settings, items = study.read_settings(), study.read_items()
    assert (settings.consent, settings.title, settings.planned_votes) == ("Our consent.", "Ours", 2)
    assert [(item.answers, item.expected, item.why) for item in items if item.why] == [(("yes", "no"), "b", "W.")]


def test_status_shows_progress_and_no_result(tmp_path: Path, capsys: Any):
    study = make_study(tmp_path, plain_texts(3), "raters=2", "overlap=1")
    assert main(["status", f"study={study.path}"]) == 0
    assert "0 of 7 pages done" in capsys.readouterr().out


@pytest.mark.slow
def test_a_study_generates_the_answers_of_a_model(warm: None, tmp_path: Path):
    make_base(tmp_path / "tiny-model-3")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "3 and 3 is", "category": "odd"}\n{"prompt": "2 and 2 is"}\n')
    study = Study(tmp_path / "study")
    words = [f"runs={tmp_path / 'tiny-model-3'}", f"prompts={tmp_path / 'prompts.jsonl'}", "raters=1", "type=rating"]
    assert main(["create", f"study={study.path}", *words, "max_new_tokens=4", "repeat=0"]) == 0
    key = study.read_key()
    [system] = key.systems
    assert system.name == "tiny-model-3" and "max_new_tokens=4" in system.command
    assert sorted(key.categories.values()) == ["odd"] and len(key.items) == 2
    assert sorted(item.prompt[0].text for item in study.read_items() if not item.expected) == [
        "2 and 2 is",
        "3 and 3 is",
    ]


@pytest.mark.soak
def test_the_whole_loop_on_a_run_and_its_base(tmp_path: Path, capsys: Any):
    """A run and its base answer, raters vote over HTTP, the result is in the run, the votes are preference rows."""
    run = make_run(tmp_path)
    rows = [{"prompt": f"{i} and {i} is", "category": "even" if i % 2 == 0 else "odd"} for i in range(4)]
    rows += [{"messages": [{"role": "user", "content": "5 and 5 is"}], "category": "odd"}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    study = Study(tmp_path / "study")
    words = [f"study={study.path}", f"runs=[{run.path},base]", f"prompts={tmp_path / 'prompts.jsonl'}", "raters=2"]
    assert main(["create", *words, "max_new_tokens=6", "temperature=1", "seed=2"]) == 0
    key = study.read_key()
    assert [system.name for system in key.systems] == ["run", "run@base"] and "max_new_tokens=6" in key.systems[
        0
    ].command
    with Served(study) as served:
        counts = [served.vote_all(rater, lambda item: "ab"[int(item, 16) % 2]) for rater in (0, 1)]
    assert counts == [7, 7]  # five items and two of practice
    found = analysis(study)
    assert found["complete"] and {each["value"] for each in found["slices"]} >= {"even", "odd"}
    assert json.loads((run.path / "human" / "study" / "analysis.json").read_text()) == found
    assert (run.path / "human" / "study" / "datasheet.md").read_text().startswith("# Datasheet")
    out = tmp_path / "votes.jsonl"
    command = [sys.executable, "-m", "distft.human_eval", "export", f"study={study.path}", f"out={out}", "votes=all"]
    assert subprocess.run(command, check=False).returncode == 0
    made = [load_format("preference", {})(json.loads(line)) for line in out.read_text().splitlines()]
    assert made and all(each.rejected for each in made)
