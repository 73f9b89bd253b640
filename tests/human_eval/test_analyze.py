"""`analyze`: excludes before it opens the key, repeats byte for byte, counts early looks, and copies to the runs."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distft.config import ConfigError
from distft.human_eval import analyze as module
from distft.human_eval.__main__ import main
from distft.human_eval.study import Item, Study
from distft.human_eval.votes import Ballot, Votes
from distft.report.outcomes import outcomes
from distft.run import RunFolder
from tests.support.chat_server import ChatServer
from tests.support.studies import make_study, plain_texts, write_answers

Chooser = Callable[[str, Item, bool], str]  # kind, item and swapped -> choice


def vote_all(study: Study, choosers: list[Chooser], share: float = 1.0) -> None:
    """Votes for every rater in the database itself. share: of each rater's pages."""
    votes, items = Votes(study.votes_file), {item.id: item for item in study.read_items()}
    with votes.transaction() as db:
        db.execute("UPDATE raters SET consented = 1")
    for rater, choose in enumerate(choosers):
        total = votes.progress(rater).total
        while (state := votes.progress(rater)).current and state.done < share * total:
            page = state.current
            assert page is not None
            choice = choose(page.kind, items[page.item], page.swapped)
            assert votes.vote(rater, Ballot(page.slot, choice, {}, ("clearer",), f"page {page.item}")) == "saved"
    votes.close()


def right(item: Item, swapped: bool) -> str:
    return {"a": "b", "b": "a"}[item.expected] if swapped else item.expected


def prefer(word: str, error: float = 0.0, ties: float = 0.0, seed: int = 0) -> Chooser:
    """Prefers the answer with a word; passes checks; errs and ties with these probabilities."""
    rng = random.Random(seed)

    def choose(kind: str, item: Item, swapped: bool) -> str:
        if item.expected:
            return right(item, swapped)
        if rng.random() < ties:
            return "tie"
        shown = item.answers[::-1] if swapped else item.answers
        best = "a" if word in shown[0] else "b"
        return best if rng.random() >= error else {"a": "b", "b": "a"}[best]

    return choose


def careless(kind: str, item: Item, swapped: bool) -> str:
    """Fails every check."""
    return {"a": "b", "b": "a"}[right(item, swapped)] if item.expected else "a"


def analysis(study: Study, *words: str) -> dict[str, Any]:
    assert main(["analyze", f"study={study.path}", *words]) == 0
    return json.loads(study.analysis_file.read_text())


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path, plain_texts(30), "raters=5", "overlap=3", "attention=0.2", "seed=4")


def test_a_preference_is_found_and_said(study: Study, capsys: Any):
    vote_all(study, [prefer("first", error=0.1, ties=0.1, seed=rater) for rater in range(5)])
    found = analysis(study)
    [pair] = found["comparisons"]
    assert (pair["a"], pair["b"], pair["votes"]) == ("zebra-run-7", "quokka-run-9", 90)
    assert pair["wins_a"] + pair["wins_b"] + pair["ties"] + pair["both_bad"] == 90
    score = (pair["wins_a"] + 0.5 * pair["ties"]) / 90
    assert pair["win_rate"]["value"] == pytest.approx(score) and found["win_rate"]["value"] == pytest.approx(score)
    assert pair["win_rate"]["low"] > 0.5 and pair["p_holm"] < 0.001
    assert "zebra-run-7 is preferred" in capsys.readouterr().out
    assert (
        found["complete"] and found["counts"]["used"] == 90 and found["agreement"]["krippendorff_alpha"]["items"] == 30
    )
    assert found["bradley_terry"]["ties_as_half"]["zebra-run-7"]["value"] > 0
    assert found["attention"]["value"] == 1 and found["biases"]["first_answer"]["low"] < 0.5
    assert found["biases"]["longer_answer"]["high"] < 0.5  # the winner is the shorter one
    assert set(found["self_agreement"]) == {"same_order", "swapped"} and found["self_agreement"]["swapped"]["n"] == 5
    assert found["reasons"]["zebra-run-7"] == {"clearer": pair["wins_a"]}
    assert {each["value"] for each in found["slices"]} >= {"short"}
    assert all(each["few"] == (each["votes"] < 30) for each in found["slices"])
    assert len(found["disagreements"]) <= 10 and found["disagreements"][0]["for_a"] >= 1


def test_no_difference_is_a_result_with_the_votes_it_needs(study: Study, capsys: Any):
    vote_all(study, [prefer("first", error=0.42, seed=rater + 3) for rater in range(5)])
    [pair] = analysis(study)["comparisons"]
    assert pair["win_rate"]["low"] < 0.5 < pair["win_rate"]["high"]
    assert "no difference shown; " in capsys.readouterr().out


@pytest.mark.slow
def test_careless_raters_are_excluded_before_the_key_is_opened(study: Study, monkeypatch: pytest.MonkeyPatch):
    vote_all(study, [careless, *[prefer("first", seed=rater) for rater in range(4)]])
    study.key_file.rename(study.path / "away")
    with pytest.raises(FileNotFoundError):
        main(["analyze", f"study={study.path}"])
    written = json.loads((study.path / "exclusions.json").read_text())
    assert written["raters"] == [{"rater": "rater-01", "reason": "passed 0% of 4 attention checks"}]
    (study.path / "away").rename(study.key_file)
    found = analysis(study)
    [pair] = found["comparisons"]
    assert pair["votes"] == 72 and found["counts"]["excluded"] == 18 and pair["win_rate"]["value"] == 1
    assert found["without_exclusions"][0]["votes"] == 90 and found["without_exclusions"][0]["win_rate"]["value"] < 1
    assert "1 raters excluded" in " ".join(found["conclusions"])


def test_all_raters_excluded_is_said_and_not_a_crash(study: Study):
    vote_all(study, [careless] * 5)
    found = analysis(study)
    assert found["counts"]["used"] == 0 and "comparisons" not in found


def test_fast_votes_are_excluded_by_the_fixed_limit(tmp_path: Path):
    study = make_study(tmp_path, plain_texts(6), "raters=1", "min_seconds=3600")
    vote_all(study, [prefer("first")])
    found = analysis(study)
    assert found["counts"]["excluded"] == 6 and found["exclusions"]["fast_votes"] == 6


@pytest.mark.slow
def test_the_same_votes_give_the_same_bytes(study: Study):
    vote_all(study, [prefer("first", error=0.2, ties=0.2, seed=rater) for rater in range(5)])
    analysis(study)
    files = [study.analysis_file, study.path / "datasheet.md"]
    before = [file.read_bytes() for file in files]
    analysis(study)
    assert [file.read_bytes() for file in files] == before


@pytest.mark.slow
def test_an_early_look_is_marked_and_counted(study: Study):
    vote_all(study, [prefer("first")] * 5, share=0.5)
    early = analysis(study)
    assert not early["complete"] and early["conclusions"][0].startswith("interim: ")
    analysis(study)
    votes = Votes(study.votes_file)
    assert not votes.is_closed()
    votes.close()
    vote_all(study, [prefer("first")] * 5)
    found = analysis(study)
    assert [look["complete"] for look in found["looks"]] == [False, True]
    assert found["conclusions"][0].startswith("looked at 1 times before all votes were in")
    assert "Analyses before all votes were in**: 1" in (study.path / "datasheet.md").read_text()
    votes = Votes(study.votes_file)
    assert votes.is_closed()
    votes.close()


@pytest.mark.slow
def test_votes_on_changed_items_are_refused(study: Study):
    vote_all(study, [prefer("first")] * 5)
    study.items_file.write_text(study.items_file.read_text().replace("The first says 1.", "The first says 2."))
    with pytest.raises(RuntimeError, match="changed since the study was created"):
        main(["analyze", f"study={study.path}"])


@pytest.mark.slow
def test_the_place_on_the_page_is_not_the_system(study: Study):
    """A rater who always takes the first answer shows a position bias and no preference."""
    vote_all(study, [lambda kind, item, swap: right(item, swap) if item.expected else "a"] * 5)
    found = analysis(study)
    assert found["biases"]["first_answer"]["value"] == 1
    assert found["comparisons"][0]["win_rate"]["value"] == pytest.approx(0.5, abs=0.06)
    assert found["self_agreement"]["same_order"]["value"] == 1 and found["self_agreement"]["swapped"]["value"] == 0


@pytest.mark.slow
def test_three_systems_are_compared_in_pairs(tmp_path: Path):
    files = [
        write_answers(tmp_path / f"{name}.jsonl", [f"{name} {i}" for i in range(20)]) for name in ("x1", "y2", "z3")
    ]
    words = [f"answers={json.dumps([str(file) for file in files])}", "raters=4", "overlap=1"]
    assert main(["create", f"study={tmp_path / 's'}", *words]) == 0
    study = Study(tmp_path / "s")
    vote_all(study, [prefer("x1", error=0.2, seed=rater) for rater in range(4)])
    found = analysis(study)
    assert [(pair["a"], pair["b"], pair["votes"]) for pair in found["comparisons"]] == [
        ("x1", "y2", 20), ("x1", "z3", 20), ("y2", "z3", 20)]  # fmt: skip
    assert all(pair["p_holm"] >= pair["p"] for pair in found["comparisons"]) and "win_rate" not in found
    strengths = {name: each["value"] for name, each in found["bradley_terry"]["ties_as_half"].items()}
    assert max(strengths, key=lambda name: strengths[name]) == "x1" and sum(strengths.values()) == pytest.approx(0)


@pytest.mark.slow
def test_ratings_are_compared_by_criterion(tmp_path: Path, capsys: Any):
    study = make_study(tmp_path, plain_texts(12), "raters=4", "overlap=3", "type=rating", "criteria=[helpful,kind]")
    votes, items = Votes(study.votes_file), {item.id: item for item in study.read_items()}
    with votes.transaction() as db:
        db.execute("UPDATE raters SET consented = 1")
    rng = random.Random(1)
    for rater in range(4):
        while (page := votes.progress(rater).current) is not None:
            good = "first" in items[page.item].answers[0]
            ratings = {"helpful": rng.choice([4, 5]) if good else rng.choice([1, 2, 3]), "kind": rng.choice([2, 3, 4])}
            votes.vote(rater, Ballot(page.slot, "rated", ratings))
    votes.close()
    found = analysis(study)
    helpful, kind = found["differences"]
    assert helpful["low"] > 1 and kind["low"] < 0 < kind["high"]
    assert "zebra-run-7 is better" in found["ratings"][0]["text"] and "no difference" in found["ratings"][1]["text"]
    mean = next(each for each in found["means"] if each["system"] == "zebra-run-7" and each["criterion"] == "helpful")
    assert 4 <= mean["value"] <= 5 and mean["votes"] == 36
    assert found["agreement_by_criterion"]["helpful"]["value"] > found["agreement_by_criterion"]["kind"]["value"]
    with pytest.raises(ConfigError, match="type=rating has no preferences"):
        main(["export", f"study={study.path}", f"out={tmp_path / 'x.jsonl'}"])


@pytest.mark.slow
def test_a_judge_behind_an_endpoint_is_compared_with_the_raters(study: Study, tmp_path: Path):
    vote_all(study, [prefer("first", error=0.1, seed=i) for i in range(5)])
    server = ChatServer(lambda prompt, first, second: "[[A]]" if "first" in first else "[[B]]")
    words = [f"study={study.path}", "judge=endpoint", "endpoint.model=m", f"endpoint.url={server.url}"]
    assert main(["analyze", *words]) == 0
    found = json.loads(study.analysis_file.read_text())
    asked = len(server.requests)
    assert any(line.startswith("the judge agrees with ") for line in found["conclusions"])
    assert found["judge"]["agreement"] == pytest.approx(found["win_rate"]["value"]) and found["judge"]["votes"] > 0
    assert found["judge"]["cost"]["asked"] == asked == 2 * len({row for row, _ in study.read_key().items.values()})
    assert main(["analyze", *words]) == 0 and len(server.requests) == asked  # cached
    server.close()
    with pytest.raises(ConfigError, match=r"endpoint.modle: there is no such option. Did you mean model\?"):
        main(["analyze", f"study={study.path}", "judge=endpoint", "endpoint.modle=m"])


@pytest.mark.slow
def test_a_judge_is_compared_with_the_raters(study: Study, tmp_path: Path):
    vote_all(study, [prefer("first", seed=rater) for rater in range(5)])
    rows = [{"prompt": f"Question {i}?", "winner": "quokka-run-9" if i < 6 else "zebra-run-7"} for i in range(30)]
    judge = tmp_path / "judge.jsonl"
    judge.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = analysis(study, f"judge={judge}")["judge"]
    assert found["votes"] == 90 and found["agreement"] == pytest.approx(24 / 30)
    judge.write_text('{"prompt": "Question 1?", "winner": "zebra-run"}\n{"x": 1}\n[]\n')
    with pytest.raises(ConfigError) as caught:
        main(["analyze", f"study={study.path}", f"judge={judge}"])
    assert "Did you mean zebra-run-7?" in caught.value.messages[0] and len(caught.value.messages) == 3


@pytest.mark.slow
def test_the_datasheet_has_what_happened(study: Study):
    vote_all(study, [careless, *[prefer("first", ties=0.3, seed=rater) for rater in range(4)]])
    analysis(study)
    text = (study.path / "datasheet.md").read_text()
    for part in ("5 invited, 4 with counted votes", "90 of 90 planned", "rater-01: passed 0% of 4 attention checks",
                 "below 50% of attention checks", "> ## Before you begin", "Approval or review**: not recorded",
                 "Seed of all draws**: 4", "zebra-run-7"):  # fmt: skip
        assert part in text, part


def test_results_are_copied_to_each_run_of_the_study(tmp_path: Path):
    for name in ("night-1", "night-2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").write_text(f"name: {name}\n")
    runs = json.dumps([str(tmp_path / "runs" / "night-1"), str(tmp_path / "runs" / "night-2")])
    study = make_study(tmp_path, plain_texts(4), "raters=1", f"runs={runs}")
    vote_all(study, [prefer("first")])
    found = analysis(study)
    assert found["systems"] == ["night-1", "night-2"]
    for name in found["systems"]:
        assert json.loads((tmp_path / "runs" / name / "human" / "study" / "analysis.json").read_text()) == found


@pytest.mark.slow
def test_5000_votes_are_analyzed_quickly(tmp_path: Path):
    study = make_study(
        tmp_path, plain_texts(1250), "raters=20", "overlap=4", "repeat=0", "attention=0", "practice=none"
    )
    vote_all_fast(study)
    begin = time.process_time()
    found = analysis(study)
    assert found["counts"]["used"] == 5000
    print(f"{time.process_time() - begin:.1f} s of processor time")


def vote_all_fast(study: Study) -> None:
    votes, rng = Votes(study.votes_file), random.Random(0)
    slots = [slot for (slot,) in votes.db.execute("SELECT id FROM slots")]
    rows = [(slot, i, rng.choice("aab"), "{}", "[]", "", 1.0, 1.0) for i, slot in enumerate(slots)]
    with votes.transaction() as db:
        db.executemany("INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
    votes.close()


def test_a_study_without_votes_is_refused(study: Study):
    with pytest.raises(ConfigError, match="holds no votes"):
        main(["analyze", f"study={study.path}"])
    assert not study.analysis_file.exists() and module.KEYS


def test_the_report_of_a_run_shows_the_result(tmp_path: Path):
    (tmp_path / "runs" / "night-1").mkdir(parents=True)
    (tmp_path / "runs" / "night-1" / "config.yaml").write_text("name: night-1\n")
    run = RunFolder(tmp_path / "runs" / "night-1")
    study = make_study(tmp_path, plain_texts(12), "raters=2", f"runs=[{run.path},base]")
    vote_all(study, [prefer("first")] * 2)
    analysis(study)
    [outcome] = outcomes(run)
    assert outcome.title == "Human evaluation: study" and "night-1 is preferred" in outcome.about
    [measure] = outcome.measures
    assert (measure.name, measure.value, measure.n) == ("win rate of night-1 against night-1@base", "1", "24")
