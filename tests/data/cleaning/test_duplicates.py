"""Duplicates, contradictions and outliers: planted ones are found, and no other row."""

import random

import numpy as np
import pytest

from distft.data.cleaning.rules import contradictions, exact_duplicates, length, near_duplicates
from distft.data.cleaning.view import Text, View, ngram_hashes, word_hashes
from tests.data.cleaning.planted_rows import document, jaccard, near_pair, pair, words


def found_by(rule, views: list[View]) -> dict[int, int | None]:
    """Returns row -> the earlier row that it was found similar to."""
    compared = rule.compare(rule.sign(views), np.ones(len(views), dtype=bool))
    return {row: other for row, other, _ in compared}


def test_exact_duplicates_are_found_in_any_case_and_spacing():
    choose = random.Random(0)
    rows = [pair(" ".join(words(choose, 8)), " ".join(words(choose, 15))) for _ in range(400)]
    again = [
        View("b", 1, tuple(Text(each.role, f"  {each.text.upper()} !\n", each.trained) for each in row.texts))
        for row in rows[:100]
    ]
    found = found_by(exact_duplicates.Rule(), [*rows, *again])
    assert found == {400 + i: i for i in range(100)}


def test_rows_of_one_prompt_are_duplicates_by_prompt_alone():
    rows = [pair("What is it?", "a dog"), pair("what is it", "a cat"), pair("Where?", "a cat")]
    assert found_by(exact_duplicates.Rule(), rows) == {}
    assert found_by(exact_duplicates.Rule(parts=["prompt"]), rows) == {1: 0}
    assert found_by(exact_duplicates.Rule(parts=["answer"]), rows) == {2: 1}
    assert found_by(exact_duplicates.Rule(parts=["prompt", "answer"]), [*rows, rows[2]]) == {1: 0, 3: 2}


@pytest.mark.slow
def test_near_duplicates_are_found_from_the_threshold_on():
    choose = random.Random(1)
    similar = [near_pair(choose, 0.8, 0.84, choose.randrange(60, 140)) for _ in range(200)]
    others = [near_pair(choose, 0.55, 0.77, choose.randrange(60, 140)) for _ in range(200)]
    views = [document(" ".join(text)) for texts in (*similar, *others) for text in texts]
    found = found_by(near_duplicates.Rule(), views)
    right = {2 * i + 1: 2 * i for i in range(len(similar))}
    hits = len(right.items() & found.items())
    assert hits / len(right) >= 0.92
    assert hits / len(found) >= 0.99


def test_a_near_duplicate_has_a_similar_row_that_stays():
    """Rows that change a little from one to the next: the ends of the chain are different rows."""
    choose = random.Random(2)
    chain = [words(choose, 120)]
    for _ in range(30):
        text = list(chain[-1])
        text[choose.randrange(120)] = f"new{len(chain)}"
        chain.append(text)
    found = found_by(near_duplicates.Rule(), [document(" ".join(text)) for text in chain])
    stay = [row for row in range(len(chain)) if row not in found]
    assert len(stay) >= 3
    for row, other in found.items():
        assert other in stay and jaccard(chain[row], chain[other]) >= 0.8


def test_a_block_without_a_usable_row_has_no_signatures():
    for rule in (near_duplicates.Rule(), exact_duplicates.Rule(), contradictions.Rule(), length.Rule()):
        assert all(len(column) == 0 for column in rule.sign([]).values())
        assert found_by(rule, []) == {}


def test_similar_prompts_with_other_short_answers_stay():
    choose = random.Random(3)
    prompt = " ".join(words(choose, 80))
    assert found_by(near_duplicates.Rule(), [pair(prompt, "yes"), pair(f"{prompt} now", "no")]) == {}
    assert found_by(near_duplicates.Rule(), [pair(prompt, "yes"), pair(f"{prompt} now", "yes")]) == {1: 0}


def test_minhash_estimates_similarity_without_bias():
    from rensa import RMinHash

    choose, errors = random.Random(4), []
    for _ in range(100):
        one, other = near_pair(choose, 0.4, 0.9, 100)
        runs = [np.unique(ngram_hashes(word_hashes(text), 5)) for text in (one, other)]
        offsets = np.array([0, len(runs[0]), len(runs[0]) + len(runs[1])], dtype=np.uint64)
        digests = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(runs), offsets, 512, 1).to_rows()
        estimate = np.mean(np.array(digests[0]) == np.array(digests[1]))
        errors.append(estimate - jaccard(one, other))
        assert near_duplicates.jaccard(*runs) == pytest.approx(jaccard(one, other))
    assert abs(np.mean(errors)) < 0.01


def test_batches_and_a_large_bucket_change_nothing():
    choose = random.Random(5)
    template = words(choose, 100)
    rows = [document(" ".join([*template, str(i)])) for i in range(300)]
    rule = near_duplicates.Rule()
    assert set(found_by(rule, rows)) == set(range(1, 300))
    whole, parts = rule.sign(rows), [rule.sign(rows[:7]), rule.sign(rows[7:])]
    for name, column in whole.items():
        assert np.array_equal(column, np.concatenate([part[name] for part in parts]))


def test_scripts_without_spaces_have_runs_of_characters():
    text = "河上的那座老桥上个星期因为需要进行大规模维修而关闭了附近的居民只好每天早上绕很远的路去上班"
    other = text.replace("星期", "月", 1)
    assert found_by(near_duplicates.Rule(threshold=0.7), [document(text), document(other)]) == {1: 0}
    assert found_by(near_duplicates.Rule(), [document(text), document(text[::-1])]) == {}


def test_contradictions_are_different_short_answers_to_a_prompt():
    rows = [
        pair("Is it?", "yes"),
        pair("is it", "No."),
        pair("Is it?", "YES"),
        pair("Why?", "yes"),
        pair("why", "yes!"),
    ]
    long = [pair("Say more.", "a long answer of many words"), pair("Say more.", "quite another answer of many words")]
    assert sorted(found_by(contradictions.Rule(), [*rows, *long])) == [0, 1, 2]
    assert sorted(found_by(contradictions.Rule(max_words=9), [*rows, *long])) == [0, 1, 2, 5, 6]


def test_length_outliers_are_far_from_the_median():
    choose = random.Random(6)
    rows = [pair("q", " ".join(words(choose, choose.randrange(40, 60)))) for _ in range(100)]
    odd = [pair("q", "x"), pair("q", " ".join(words(choose, 3000)))]
    assert sorted(found_by(length.Rule(outlier=5.0), [*rows, *odd])) == [100, 101]
    assert found_by(length.Rule(), [*rows, *odd]) == {}
    assert sorted(found_by(length.Rule(min_words=2, max_words=100), [*rows, *odd])) == [100, 101]
