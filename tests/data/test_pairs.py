"""A pair is one row of two documents; each answer keeps its part of the budget, or the pair is left out and counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distft.config import Config
from distft.data.shards import Row, Rows
from distft.data.stage import Prepared, prepare_data
from distft.data.tokenize import byte_tokenizer

KTO = "distft.losses.kto.KTO"
TOKENIZER = byte_tokenizer()
Make = Callable[..., Config]
WriteRows = Callable[..., Path]
HEAD, TAIL = "<|im_start|>assistant\n", "<|im_end|>"


def pair(prompt: str, chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def prepare(config: Config, task: str = "preference") -> Prepared:
    return prepare_data(config.changed({"model.task": task}))


def texts(row: Row) -> list[tuple[str, str]]:
    """Returns the whole text and the trained text of each document."""
    decode = TOKENIZER.decode
    return [(decode(each.input_ids), decode(each.input_ids[each.trained])) for each in row.documents()]


def dropped(prepared: Prepared) -> list[tuple[int, str, str]]:
    lines = [json.loads(line) for line in (prepared.folder / "dropped.jsonl").read_text().splitlines()]
    return [(line["line"], line["rule"], line["reason"]) for line in lines]


def test_a_pair_is_one_row_of_two_documents(config: Make, write_rows: WriteRows):
    prepared = prepare(config(write_rows([pair("Q", "yes", "no way")])))
    rows = Rows(prepared.folder, "train")
    (chosen, its), (rejected, other) = texts(rows[0])
    assert chosen == f"<|im_start|>user\nQ<|im_end|>\n{HEAD}yes{TAIL}\n" and its == f"yes{TAIL}"
    assert rejected == f"<|im_start|>user\nQ<|im_end|>\n{HEAD}no way{TAIL}\n" and other == f"no way{TAIL}"
    assert len(rows) == 1 and rows.num_targets.tolist() == [1] and rows.target_weight.tolist() == [1.0]


def test_both_ways_to_write_a_prompt_give_the_same_row(config: Make, write_rows: WriteRows):
    turn = {"role": "user", "content": "Q"}
    answers = [[{"role": "assistant", "content": text}] for text in ("yes", "no")]
    explicit = write_rows([pair("Q", "yes", "no")], "explicit.jsonl")
    implicit = write_rows([{"chosen": [turn, *answers[0]], "rejected": [turn, *answers[1]]}], "implicit.jsonl")
    rows = [Rows(prepare(config(each)).folder, "train")[0] for each in (explicit, implicit)]
    assert rows[0].input_ids.tolist() == rows[1].input_ids.tolist()
    assert rows[0].trained.tolist() == rows[1].trained.tolist()


def test_answers_of_several_turns_are_trained_after_the_prompt(config: Make, write_rows: WriteRows):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "shared"}]
    more = [{"role": "user", "content": "b"}, {"role": "assistant", "content": "good"}]
    prepared = prepare(config(write_rows([{"chosen": [*turns, *more], "rejected": [*turns, more[0], bad()]}])))
    assert [trained for _, trained in texts(Rows(prepared.folder, "train")[0])] == [f"good{TAIL}", f"bad{TAIL}"]


def bad() -> dict[str, str]:
    return {"role": "assistant", "content": "bad"}


@pytest.mark.parametrize("prompt", [3, 60, 200])
@pytest.mark.parametrize("answers", [(5, 5), (40, 9), (9, 200), (300, 290)])
def test_a_cut_leaves_each_answer_its_budget(
    prompt: int, answers: tuple[int, int], config: Make, write_rows: WriteRows
):
    chosen, rejected = "c" * answers[0], "r" * answers[1]
    asked = config(write_rows([pair("p" * prompt, chosen, rejected)]), max_length=64, max_truncated_fraction=1.0)
    whole = prepare(asked.changed({"data.max_length": 4096}))
    sides, full = (Rows(each.folder, "train")[0].documents() for each in (prepare(asked), whole))
    starts = [int(np.flatnonzero(side.trained)[0]) for side in sides]
    assert starts[0] == starts[1] and all(len(side.input_ids) <= 64 for side in sides)
    before = int(np.flatnonzero(full[0].trained)[0])
    for side, uncut, length in zip(sides, full, answers, strict=True):
        assert side.trained.sum() >= min(length + 1, 32), "an answer has half of the budget at least"
        trained = uncut.input_ids[uncut.trained]
        assert side.input_ids[side.trained].tolist() == trained[: side.trained.sum()].tolist()
        assert side.input_ids[: starts[0]].tolist() == uncut.input_ids[before - starts[0] : before].tolist()
    if before <= 32:
        assert starts[0] == before, "a short prompt stays whole"


def test_whole_turns_are_dropped_from_the_common_prompt(config: Make, write_rows: WriteRows):
    turns = [{"role": role, "content": f"{role[0]}{i}" * 4} for i in range(3) for role in ("user", "assistant")]
    row = {"chosen": [*turns, *ask("q", "good")], "rejected": [*turns, *ask("q", "bad")]}
    asked = config(write_rows([row]), max_length=80, truncate="drop_turns", max_truncated_fraction=1.0)
    (chosen, _), (rejected, _) = texts(Rows(prepare(asked).folder, "train")[0])
    assert chosen.startswith("<|im_start|>user\nu2u2") and chosen.endswith(f"good{TAIL}\n")
    assert rejected == chosen.replace("good", "bad")


def ask(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_pairs_that_the_cut_makes_equal_are_left_out(config: Make, write_rows: WriteRows):
    """Their gradient is zero, and their accuracy is that of a coin."""
    same = "the same beginning of more than thirty-two tokens "
    rows = [pair("Q", "yes", "no"), pair("Q", same + "a", same + "b")]
    prepared = prepare(config(write_rows(rows), max_length=64, max_truncated_fraction=1.0))
    assert len(Rows(prepared.folder, "train")) == 1 and prepared.report["streams"]["train"]["untrained"] == 1
    assert dropped(prepared) == [(2, "untrained", "chosen and rejected are equal within 64 tokens")]


def test_pairs_whose_answer_is_empty_are_left_out(config: Make, write_rows: WriteRows):
    """An answer in an untrained turn alone gives no log-probability; it must not become a NaN later."""
    silent = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "x", "train": False}]
    rows = [pair("Q", "yes", "no"), {"chosen": ask("Q", "good"), "rejected": silent}]
    prepared = prepare(config(write_rows(rows)))
    assert len(Rows(prepared.folder, "train")) == 1
    assert dropped(prepared) == [(2, "untrained", "rejected: no token to train on within 256 tokens")]


def test_too_long_pairs_are_dropped_where_requested(config: Make, write_rows: WriteRows):
    rows = [pair("Q", "yes", "no"), pair("Q", "y" * 90, "no")]
    prepared = prepare(config(write_rows(rows), max_length=64, truncate="drop", max_truncated_fraction=1.0))
    assert [line[:2] for line in dropped(prepared)] == [(2, "too_long")]


def test_the_weight_of_a_row_is_that_of_its_pair(config: Make, write_rows: WriteRows):
    rows = Rows(prepare(config(write_rows([pair("Q", "yes", "no", weight=0.25)]))).folder, "train")
    assert rows.target_weight.tolist() == [0.25] and rows[0].weights is not None
    assert rows[0].weights.tolist() == [0.25]


def test_a_weight_of_one_message_in_a_pair_is_refused(config: Make, write_rows: WriteRows):
    weighted = {"role": "assistant", "content": "good", "weight": 0.5}
    rows = [pair("Q", "yes", "no"), {"chosen": [ask("Q", "x")[0], weighted], "rejected": ask("Q", "bad")}]
    prepared = prepare(config(write_rows(rows), max_bad_fraction=1.0))
    assert dropped(prepared) == [
        (2, "malformed", "weight: of a message is 0.5; a pair has one weight, that of its row")
    ]


def test_an_answer_with_a_label_is_a_row_of_one_document(config: Make, write_rows: WriteRows):
    rows = [{"prompt": "Q", "completion": text, "label": good} for text, good in (("yes", True), ("no", False))]
    asked = config(write_rows(rows))
    with pytest.raises(ValueError, match="are single answers with a label, and the loss compares pairs. Try: loss=kto"):
        prepare(asked)
    found = Rows(prepare(asked.changed({"loss": {"_target_": KTO}})).folder, "train")
    assert [texts(row) for row in found] == [
        [(f"<|im_start|>user\nQ<|im_end|>\n{HEAD}{text}{TAIL}\n", f"{text}{TAIL}")] for text in ("yes", "no")
    ]
    assert [row.labels.tolist() for row in found if row.labels is not None] == [[1.0], [0.0]]


def test_pairs_and_labelled_answers_are_not_mixed(config: Make, write_rows: WriteRows):
    rows = [pair("Q", "yes", "no")] * 2 + [{"prompt": "Q", "completion": "x", "label": True}]
    prepared = prepare(config(write_rows(rows), max_bad_fraction=1.0))
    assert [line[:2] for line in dropped(prepared)] == [(3, "malformed")]
