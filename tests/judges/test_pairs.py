"""Verdicts of judges: how they are read, win rates with intervals, and a rule that needs no model."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, t

from distft.judges import Question, make_judge
from distft.judges.pairs import Choice, Cost, Verdict, compare_answers, conclusion, read_choice, summary, text_of


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("[[A]]", "first"),
        ("At first [[A]], but in the end [[ b ]].", "second"),
        ("[[C]]", "tie"),
        ("[[tie]]", "tie"),
        (" B.\n", "second"),
        ("Answer A", "first"),
        ("A is good, B is bad", "unreadable"),
        ("", "unreadable"),
        ("[[D]]", "unreadable"),
    ],
)
def test_a_verdict_is_the_last_letter_in_brackets(text: str, choice: Choice) -> None:
    assert read_choice(text) == choice


def test_the_prompt_holds_both_answers_and_what_is_expected() -> None:
    text = text_of(Question("2 and 2?", "{4}", "five", "4"), "right")
    assert "<answer_A>\n{4}\n" in text and "<answer_B>\nfive\n" in text and "<reference>\n4\n" in text
    assert "better: right." in text and "<reference>" not in text_of(Question("2?", "a", "b"))


def verdicts_of(wins: int, losses: int, ties: int) -> list[Verdict]:
    made = [Verdict(Question("p", "long answer", "short"), "first", "second")] * wins
    made += [Verdict(Question("p", "a", "b"), "second", "first")] * losses
    return made + [Verdict(Question("p", "a", "b"), "first", "first")] * ties


def test_the_win_rate_has_the_interval_of_a_mean_of_items() -> None:
    verdicts = verdicts_of(30, 12, 8)
    found = summary(verdicts, [str(i) for i in range(50)], Cost())
    scores = np.array([1.0] * 30 + [0.0] * 12 + [0.5] * 8)
    half = t.ppf(0.975, 49) * scores.std(ddof=1) / np.sqrt(50)
    rate = found["win_rate"]
    assert isinstance(rate, dict) and rate["value"] == pytest.approx(0.68)
    assert rate["high"] == pytest.approx(0.68 + half) and rate["low"] == pytest.approx(0.68 - half)
    assert found["orders_disagree"] == 8 and found["longer_answer"] == 1 and found["first_answer"] == 58 / 100
    assert isinstance(found["p"], float)
    assert found["p"] == pytest.approx(2 * binom.sf(29, 42, 0.5), abs=0.004)  # the sign test, by permutations
    assert conclusion(found) == "better"
    one_cluster_each_ten = summary(verdicts, [str(i // 10) for i in range(50)], Cost())["win_rate"]
    assert isinstance(one_cluster_each_ten, dict) and one_cluster_each_ten["stderr"] > 2 * rate["stderr"]


def test_no_difference_is_a_result_with_the_items_needed() -> None:
    found = summary(verdicts_of(22, 18, 10), [str(i) for i in range(50)], Cost())
    text = conclusion(found)
    assert text.startswith("no difference shown; about ") and found["items_needed"] > 300  # pyright: ignore
    assert conclusion(summary(verdicts_of(0, 0, 5), list("abcde"), Cost())) == "no difference shown"


def test_a_rule_prefers_the_higher_score(tmp_path: Path) -> None:
    judge, errors = make_judge("rule", {"rule.score": "exact_match"})
    assert judge is not None and not errors
    pairs = [Question("p", "4", "5", "4"), Question("p", "5", "4", "4"), Question("p", "3", "5", "4")]
    verdicts, cost = compare_answers(judge, pairs, tmp_path)
    assert [each.winner for each in verdicts] == ["ours", "theirs", "tie"] and cost.price is None
    with pytest.raises(RuntimeError, match="these prompts have none"):
        compare_answers(judge, [Question("p", "4", "5")], tmp_path)
    assert make_judge("rule", {"rule.score": "exact"})[1][0].startswith("judge=rule: rule.score: exact is not a score")
