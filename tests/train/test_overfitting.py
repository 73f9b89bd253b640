"""Overfitting is announced once, when the gap grows while held-out loss rises; the watched rows never change."""

import numpy as np

from distft.train.overfitting import Losses, Overfitting, advice_for, rows_to_watch

FALLING = [(0, 6.0, 6.0), (1, 3.0, 2.9), (2, 2.0, 1.8)]
APART = [(3, 2.1, 1.5), (4, 2.2, 1.2), (5, 2.4, 0.9)]


def said(evaluations: list[tuple[int, float, float]], watch: Overfitting | None = None) -> dict[int, list[str]]:
    watch = watch or Overfitting(["eval.early_stopping.patience=3"])
    return {step: watch.of(Losses(step, held_out, train)) for step, held_out, train in evaluations}


def test_overfitting_is_announced_at_the_second_sign() -> None:
    found = said([*FALLING, *APART])
    assert [step for step, texts in found.items() if texts] == [4]
    [text] = found[4]
    assert "since step 2 held-out loss rose from 2 to 2.2" in text and "from 1.8 to 1.2" in text
    assert "the gap grew from 0.2 to 1" in text and text.endswith("Try: eval.early_stopping.patience=3")


def test_losses_that_rise_together_are_not_overfitting() -> None:
    assert not any(said([*FALLING, (3, 2.5, 2.4), (4, 3.0, 2.9), (5, 4.0, 3.7)]).values()), "a diverging run"


def test_one_bad_evaluation_is_not_overfitting() -> None:
    assert not any(said([*FALLING, APART[0], (4, 1.9, 1.2), (5, 2.0, 0.9)]).values())
    assert not any(said([*FALLING, (3, 2.004, 1.5), (4, 2.006, 1.2)]).values()), "held-out loss hardly rises"


def test_a_new_minimum_arms_the_warning_again() -> None:
    again = [(6, 1.5, 0.8), (7, 1.6, 0.6), (8, 1.7, 0.5)]
    assert [step for step, texts in said([*FALLING, *APART, *again]).items() if texts] == [4, 8]


def test_a_resumed_run_warns_as_an_uninterrupted_one() -> None:
    whole, all_of_it = [*FALLING, *APART], said([*FALLING, *APART])
    for cut in range(len(whole) + 1):
        watch = Overfitting(["eval.early_stopping.patience=3"])
        pairs = [
            [{"step": step, "split": "eval", "loss": held_out}, {"step": step, "split": "train_eval", "loss": train}]
            for step, held_out, train in whole[:cut]
        ]
        watch.recall(row for pair in pairs for row in pair)
        assert said(whole[cut:], watch) == dict(list(all_of_it.items())[cut:])


def test_the_watched_rows_are_a_function_of_the_seed() -> None:
    rows = rows_to_watch(1000, 64, seed=3)
    assert rows.tolist() == rows_to_watch(1000, 64, seed=3).tolist() and len(set(rows.tolist())) == 64
    assert rows.tolist() == sorted(rows.tolist()) and rows.max() < 1000
    assert rows.tolist() != rows_to_watch(1000, 64, seed=4).tolist()
    assert rows_to_watch(10, 64, seed=3).tolist() == list(range(10))
    counts = np.bincount(np.concatenate([rows_to_watch(20, 5, seed) for seed in range(400)]), minlength=20)
    assert counts.min() > 60 and counts.max() < 140, "every row is as likely as any other: 100 times of 400"


def test_advice_names_only_what_the_run_does_not_do() -> None:
    assert advice_for(None, 0.0, "full", 30) == ["eval.early_stopping.patience=3", "train.epochs=15", "tuning=lora"]
    settled = advice_for(3, 0.1, "lora", 1)
    assert settled == ["train.neftune_alpha=5", "more training rows"]
