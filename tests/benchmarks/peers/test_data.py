"""distft reads the rows in the requested order, the warm-up first, and the peers get the same tokens."""

import json
from pathlib import Path

import pytest

from benchmarks.peers.data import IGNORED, make_data
from benchmarks.peers.settings import ROWS_PER_STEP
from benchmarks.rows import BLOCK, read_pairs, unequal_rows, warm_up_rows


@pytest.mark.slow
def test_rows_come_in_the_requested_order_and_none_is_lost(demo_dir: Path, tmp_path: Path):
    from tokenizers import Tokenizer

    model, pairs = demo_dir / "smollm2-135m-instruct", read_pairs(demo_dir / "chatterbot.jsonl")
    data = make_data(pairs, [1], model, tmp_path)
    wanted = warm_up_rows(pairs) + unequal_rows(pairs)[BLOCK : 2 * BLOCK]
    given = json.loads(data.tokens.read_text())
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    for ids, labels, row in zip(given["input_ids"], given["labels"], wanted, strict=True):
        assert row["prompt"] in tokenizer.decode(ids)
        trained = [label for label in labels if label != IGNORED]
        assert tokenizer.decode(trained, skip_special_tokens=False) == row["completion"] + "<|im_end|>"
    assert data.lengths == [len(ids) for ids in given["input_ids"]]
    assert data.targets == [sum(label != IGNORED for label in labels) for labels in given["labels"]]
    assert data.steps == 1 + BLOCK // ROWS_PER_STEP
    assert data.about()["rows"] == BLOCK
