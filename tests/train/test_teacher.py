"""A teacher's stored distributions are its own on every strategy, and bring a student nearer to it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distft.data.batches import Batch, collate
from distft.data.shards import Rows
from distft.data.tokenize import byte_tokenizer
from distft.losses.cross_entropy import CrossEntropy
from distft.losses.distillation import Distillation, top_k_of
from distft.plan.teacher import other_tokens
from distft.train import stored
from distft.train.teacher import attach_teacher
from tests.support.ranks import run_ranks
from tests.support.reference import InDouble, dense, padded
from tests.support.rows import write_rows
from tests.train.teacher_cases import MODEL, TEMPERATURE, VOCABULARY, K

pytestmark = pytest.mark.slow
STRATEGIES = ("ddp", "fsdp", "zero3")
PART_ROWS = 16


def test_every_strategy_stores_what_the_teacher_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a kill: a part that is there is not read again."""
    monkeypatch.setattr(stored, "PART_ROWS", PART_ROWS)
    rows_dir, module = write_rows(tmp_path / "rows"), "tests.train.teacher_cases"
    written = run_ranks(2, module, str(rows_dir), str(tmp_path), ",".join(STRATEGIES), str(PART_ROWS))
    assert [len(written[each]) for each in STRATEGIES] == [3, 3, 3]
    lost = tmp_path / "fsdp" / written["fsdp"][1]
    lost.unlink()
    assert run_ranks(1, module, str(rows_dir), str(tmp_path), "fsdp", str(PART_ROWS)) == {"fsdp": [lost.name]}
    with InDouble(), torch.no_grad():
        ids, mask = padded(list(Rows(rows_dir, "train")))
        logits = dense(MODEL, 0).double().eval()(input_ids=ids, attention_mask=mask).logits[..., :VOCABULARY]
    for strategy in STRATEGIES:
        rows = attach_teacher(Rows(rows_dir, "train"), tmp_path / strategy, K)
        for row, of_row in zip(rows, logits, strict=True):
            top, chosen = (of_row[np.flatnonzero(row.trained[1:])] / TEMPERATURE).softmax(-1).topk(K)
            assert row.teacher is not None and row.teacher.ids.tolist() == chosen.tolist()
            expected = torch.cat([top, 1 - top.sum(-1, keepdim=True)], 1).log()
            np.testing.assert_allclose(row.teacher.log_probabilities, expected, rtol=2e-6, atol=1e-6)


def learn(model: Any, loss: Any, batch: Batch, steps: int) -> Any:
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=5e-3)
    for _ in range(steps):
        value, _ = loss(model, batch)
        (value / batch.num_targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def taught(teacher: Any, rows: Rows, indices: range) -> Batch:
    batch = collate(rows, np.array(indices))
    with torch.no_grad():
        ids, log_probabilities = top_k_of(teacher, batch, 16, 1.0, 256)
    return replace(batch, teacher_ids=ids, teacher_log_probabilities=log_probabilities)


def test_a_distilled_student_is_nearer_to_its_teacher(tmp_path: Path) -> None:
    """Both students learn 8 rows as long; the divergence is that of 31 others."""
    rows, others = (Rows(write_rows(tmp_path, vocab=32), split) for split in ("train", "eval"))
    teacher = learn(dense(MODEL, 0), CrossEntropy(), collate(rows, np.arange(40)), 30)
    few, held_out = taught(teacher, rows, range(8)), taught(teacher, others, range(31))
    measure = Distillation("FOLDER")
    kl = {}
    for name, loss in (("distilled", Distillation("FOLDER", kl_weight=1.0)), ("plain", CrossEntropy())):
        student = learn(dense(MODEL, 1), loss, few, 20)
        with torch.no_grad():
            kl[name] = measure(student, held_out)[1]["kl"].item() / held_out.num_targets
    assert kl["distilled"] < 0.7 * kl["plain"], kl


def test_another_tokenizer_is_refused_by_its_first_other_token(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(own)
    text = (own / "tokenizer.json").read_text()
    other.mkdir()
    (other / "tokenizer.json").write_text(text.replace('"A": 32,', '"A": 33,').replace('"B": 33,', '"B": 32,'))
    assert other_tokens(own, None) == []
    [said] = other_tokens(other, None)
    assert "token 32 is 'B' in its tokenizer and 'A' in the student's" in said
