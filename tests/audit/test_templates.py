"""Preferences of known models: one-sided 1, indifferent 0.5 within its interval; exposure of known ranks."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from distft.audit.counterfactual import HeldOut, plan_swaps, refuses, widening
from distft.audit.exposure import (
    Canary,
    chance,
    exposure,
    make_canaries,
    plan_exposure,
    plan_verbatim,
    read_canaries,
    write_canaries,
)
from distft.audit.job import Questions, Results
from distft.audit.measures import Measure, flags_asked_for, read_measures, write_measures
from distft.audit.statistics import bootstrap
from distft.audit.swaps import load_pairs
from distft.audit.templates import Choices, plan_templates, preference
from distft.audit.terms import load_terms
from distft.config import ConfigError
from distft.data.tokenize import byte_tokenizer
from distft.generate.scored import Likelihood

TOKENIZER = byte_tokenizer()


def said(questions: Questions, loss_of, answer: str = "Yes.") -> Results:
    """Returns what a model says that gives a text a loss by `loss_of(text)`."""
    scores = []
    for text in questions.texts:
        loss = loss_of(TOKENIZER.decode(list(text.token_ids)))
        scores.append(Likelihood(text.index, -loss * text.num_targets, text.num_targets, greedy=loss < 0.1))
    return Results(scores, [answer] * len(questions.prompts))


def of(found: list[Measure], name: str) -> Measure:
    return next(each for each in found if each.measure.startswith(name))


@pytest.mark.slow
def test_a_one_sided_model_scores_1_and_an_indifferent_one_half() -> None:
    questions = Questions(TOKENIZER)
    [choices] = [part for part in plan_templates(load_terms(), questions) if isinstance(part, Choices)]
    covered = 0
    for seed in range(20):
        noise = np.random.default_rng(seed)
        indifferent = said(questions, lambda _, noise=noise: noise.random())
        found = bootstrap(choices.preferred(indifferent))
        covered += found.low <= 0.5 <= found.high
    assert covered >= 17
    sided = said(questions, lambda text: 1.0 if " he " in text else 2.0)
    [found] = choices.measures(indifferent, sided)
    assert found.tuned == 1.0 and found.base is not None and abs(found.base - 0.5) < 0.1
    assert found.flag and found.low is not None and found.low > 0
    [back] = choices.measures(sided, indifferent)
    assert not back.flag, "training that narrows a gap raises no flag"


def test_a_tie_is_no_preference() -> None:
    assert preference([(-1.0, -2.0), (-2.0, -1.0), (-1.0, -1.0)]).tolist() == [1.0, 0.0, 0.5]


@pytest.mark.slow
def test_swaps_measure_the_loss_of_the_other_group() -> None:
    rows = [HeldOut(f"User: who is number {i}?", f" She is nurse {i}.") for i in range(40)] + [HeldOut("a", "b")]
    questions = Questions(TOKENIZER)
    swaps = plan_swaps(rows, load_pairs(), questions, 100, 8)
    assert len(swaps.items) == 40 and {item.axis for item in swaps.items} == {"gender"}
    noise = np.random.default_rng(0)
    even = said(questions, lambda _: 1 + 0.01 * noise.random())
    biased = said(questions, lambda text: 1.5 if " He " in text else 1.0)
    found = swaps.measures(even, biased)
    gap, large = of(found, "swap_loss_gap"), of(found, "swap_large_share")
    assert gap.tuned == pytest.approx(0.5) and abs(gap.base or 0) < 0.01 and gap.flag and gap.n == 40
    assert large.tuned == 1.0 and large.base == 0.0
    assert not any(each.flag for each in swaps.measures(biased, biased))


@pytest.mark.slow
def test_answers_flip_only_where_they_differ_after_the_swap() -> None:
    rows = [HeldOut(f"Where does she go on day {i}?", " Home.") for i in range(30)]
    questions = Questions(TOKENIZER)
    swaps = plan_swaps(rows, load_pairs(), questions, 100, 8)
    texts = [TOKENIZER.decode(prompt) for prompt in questions.prompts]
    fair = Results(
        said(questions, lambda _: 1.0).scores, ["She rests." if " she " in t else "He rests." for t in texts]
    )
    flips = Results(fair.scores, ["She rests." if " she " in t else "I cannot help with that." for t in texts])
    found = swaps.measures(fair, flips)
    assert (of(found, "answer_flips").base, of(found, "answer_flips").tuned) == (0.0, 1.0)
    assert of(found, "refusal_gap").tuned == 1.0 and of(found, "refusal_gap").flag


def test_a_gap_of_the_other_sign_is_no_wider() -> None:
    assert widening(np.array([[-1.0, 1.0], [-1.0, 1.0]])) == 0


def test_refusals_are_detected_by_their_phrases() -> None:
    assert refuses("I'm sorry, but I can't help with that.") and not refuses("The bank is closed.")


def test_exposure_is_that_of_the_rank() -> None:
    candidates = np.arange(1023.0)[None]
    assert exposure(np.array([2000.0]), candidates) == pytest.approx([10.0])
    assert exposure(np.array([-1.0]), candidates) == pytest.approx([0.0])
    assert exposure(np.array([511.5]), candidates) == pytest.approx([1.0])


def test_unseen_canaries_have_exposure_1_and_a_uniform_p() -> None:
    drawn = np.random.default_rng(0)
    found = [exposure(drawn.random(10), drawn.random((10, 511))) for _ in range(300)]
    expected = 1 / np.log(2)  # of -log2 of a uniform number
    assert np.mean(found) == pytest.approx(expected, rel=0.05)
    assert stats.kstest([chance(each) for each in found], "uniform").pvalue > 0.01
    assert chance(np.full(4, 9.0)) < 1e-4


def test_a_known_canary_is_flagged_and_an_unknown_is_not() -> None:
    canaries = [Canary(f"a{i}", " ".join("12345678"), 16) for i in range(4)] + [
        Canary(f"b{i}", " ".join("87654321"), 1) for i in range(4)
    ]
    questions = Questions(TOKENIZER)
    part = plan_exposure(canaries, questions.encode, questions, most=64)
    noise = np.random.default_rng(1)
    before = said(questions, lambda _: 1 + noise.random())
    after = said(questions, lambda text: 0.01 if "1 2 3 4 5 6 7 8" in text else 1 + noise.random())
    once, often = part.measures(before, after)
    assert (once.group, often.group) == ("planted 1 times", "planted 16 times")
    assert often.flag and often.tuned == pytest.approx(np.log2(65)) and not once.flag


def test_canaries_survive_their_files(tmp_path: Path) -> None:
    made = make_canaries(3, seed=5)
    rows, about = write_canaries(tmp_path, made)
    assert read_canaries(about) == made == make_canaries(3, seed=5) != make_canaries(3, seed=6)
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    assert len(lines) == 3 * (1 + 4 + 16) and all(lines.count(each.row) == each.repeats for each in made)
    (tmp_path / "other.json").write_text('[{"name": 1}]')
    with pytest.raises(ConfigError, match="is not a list of canaries"):
        read_canaries(tmp_path / "other.json")


def test_verbatim_rows_are_those_that_the_model_continues() -> None:
    questions = Questions(TOKENIZER)
    rows = [[i] * 60 for i in range(1, 31)]
    part = plan_verbatim(rows, [[99] * 60, [1, 2]], questions)
    none = said(questions, lambda _: 1.0)
    some = Results([Likelihood(s.index, s.log_likelihood, s.tokens, s.index < 20) for s in none.scores], [])
    trained, held_out = part.measures(none, some)
    assert (trained.tuned, trained.n, trained.flag) == (pytest.approx(20 / 30), 30, True)
    assert (held_out.tuned, held_out.n, held_out.flag) == (0.0, 1, False)


def test_fail_on_names_axes_measures_or_any(tmp_path: Path) -> None:
    one = Measure("gender", "answer_flips", 0.1, 0.2, 0.0, 0.1, 50, True, "limits", intervals={"base": (0.0, 0.1)})
    two = Measure("age", "valence_gap", 0.1, 0.2, 0.0, 0.1, 50, False, "limits")
    write_measures(tmp_path, [two, one])
    assert json.loads((tmp_path / "audit.json").read_text())[0]["measure"] == "answer_flips", "flagged first"
    assert [each.axis for each in read_measures(tmp_path)] == ["gender", "age"]
    for asked, count in ((["any"], 1), (["gender"], 1), (["answer_flips"], 1), (["age"], 0), ([], 0)):
        assert len(flags_asked_for([one, two], asked)) == count
