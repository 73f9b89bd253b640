"""Scores of answers against the field's libraries, and wrong names and options."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from distft.evaluate.scores import available, make_scores

ANSWERS = [
    ("The cat sat on the mat.", "A cat sat on the mat"),
    ("paris", "Paris."),
    ("It is 12, or maybe 13.", "13"),
    ("", "nothing"),
    ("The quick brown fox jumps over the lazy dog!", "the quick brown dog jumps over the lazy fox"),
    ("a b c d e f g", "g f e d c b a"),
]


def score(name: str, **options: Any) -> Any:
    found, errors = make_scores([name], {f"{name}.{key}": value for key, value in options.items()})
    assert errors == []
    return found[name]


def values(name: str, **options: Any) -> dict[str, float]:
    """Returns the metrics over all answers."""
    made = score(name, **options)
    rows = [made(answer, expected) for answer, expected in ANSWERS]
    return {key: float(value(np.array([row[key] for row in rows]).sum(0))) for key, value in made.metrics.items()}


def test_exact_match_and_f1_are_those_of_squad() -> None:
    assert values("exact_match")["exact_match"] == pytest.approx(2 / 6)
    assert values("exact_match", normalize="none")["exact_match"] == 0
    f1 = score("f1")
    assert f1("the red house", "a red roof")["f1"] == (pytest.approx(0.5), 1.0)
    assert f1("", "The")["f1"] == (1.0, 1.0) and f1("", "x")["f1"] == (0.0, 1.0)
    assert f1("a a b", "b b c")["f1"] == (0.5, 1.0)  # the article is left out: b against b b c


def test_rouge_is_that_of_rouge_score() -> None:
    library, made = RougeScorer(["rouge1", "rouge2", "rougeL"]), score("rouge")
    for answer, expected in ANSWERS:
        for name, found in library.score(expected, answer).items():
            assert made(answer, expected)[name][0] == pytest.approx(found.fmeasure, abs=1e-9), (name, answer)
    assert made("Привет мир", "привет, мир!")["rouge2"][0] == 1.0


@pytest.mark.parametrize("word_order", [0, 2])
def test_chrf_is_that_of_sacrebleu(word_order: int) -> None:
    expected = CHRF(word_order=word_order).corpus_score([a for a, _ in ANSWERS], [[e for _, e in ANSWERS]]).score
    assert values("chrf", word_order=word_order)["chrf"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("options", [{}, {"tokenize": "char"}, {"lowercase": True}])
def test_bleu_is_that_of_sacrebleu(options: dict[str, Any]) -> None:
    expected = BLEU(**options).corpus_score([a for a, _ in ANSWERS], [[e for _, e in ANSWERS]]).score
    assert expected > 1 and values("bleu", **options)["bleu"] == pytest.approx(expected, abs=1e-9)


def test_bleu_without_long_matches_is_smoothed_as_by_sacrebleu() -> None:
    made, answer, expected = score("bleu"), "a b x d e y f g", "a b c d e f g h i"
    assert made.bleu.sentence_score(answer, [expected]).counts[2:] == [0, 0]
    found = float(made.value(np.array(made(answer, expected)["bleu"])))
    assert found == pytest.approx(BLEU().corpus_score([answer], [[expected]]).score, abs=1e-9)


def test_a_regular_expression_compares_its_last_group() -> None:
    made = score("regex", pattern=r"(\d+)")
    assert made("first 7, then 13", "so 13")["regex"][0] == 1 and made("13 or 7", "13")["regex"][0] == 0
    assert made("none", "x")["regex"][0] == 0
    assert score("regex", pattern=r"^\w+\.$")("Yes.", "")["regex"][0] == 1


def test_a_schema_accepts_json_in_a_fence(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text(json.dumps({"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}))
    made = score("json_schema", file=str(file))
    found = [
        tuple(count[0] for count in made(text, "").values())
        for text in ('{"a": 1}', '```json\n{"a": 1}\n```', '{"a": "x"}', "a: 1", '{"a": NaN}')
    ]
    assert found == [(1, 1), (1, 1), (1, 0), (0, 0), (0, 0)]


def test_every_wrong_score_and_option_is_reported() -> None:
    assert available() == ["bleu", "chrf", "exact_match", "f1", "json_schema", "regex", "rouge"]
    _, errors = make_scores(
        ["exact_mach", "f1", "bleu", "regex"], {"f1.normalise": "none", "bleu.tokenize": "12", "chrf.beta": 2}
    )
    assert errors == [
        "scores: exact_mach is not a score. Did you mean exact_match? Allowed: " + ", ".join(available()),
        "f1.normalise: there is no such option. Did you mean normalize?",
        "scores=bleu: tokenize=12. Allowed: 13a, intl, char, zh, none",
        r"scores=regex: needs a pattern. Try: regex.pattern='#### (-?\d+)'",
        "chrf.beta: has no effect without scores=[chrf]",
    ]
