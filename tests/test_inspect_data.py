import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distft.data.shards import Row
from distft.data.tokenize import byte_tokenizer
from distft.inspect_data import marked


def test_trained_tokens_are_marked_without_splitting_letters():
    tokenizer = byte_tokenizer()
    ids = np.array(tokenizer("hié<|im_end|>a")["input_ids"], np.int32)
    row = Row(ids, np.array([False, True, True, True, True, False]))
    assert marked(row, tokenizer).plain == "h⟦i│é│<|im_end|>⟧a"


@pytest.mark.slow
def test_the_command_shows_what_is_trained(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "hi", "completion": "yes"}\n' * 3)
    overrides = ["model.tiny=true", "cache_dir=cache", "data.train=rows.jsonl", "data.eval=null"]
    command = [sys.executable, "-m", "distft.inspect_data", *overrides, "n=2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=480, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("⟦y│e│s│<|im_end|>⟧") == 2
    assert "row 0 of 3 (train): 26 tokens, 4 trained" in done.stdout
