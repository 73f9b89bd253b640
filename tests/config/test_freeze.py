"""A frozen config reads back as it was, and two of them differ by key."""

from pathlib import Path

import yaml

from distft.config import compose, difference, frozen_text
from distft.run import RunFolder


def test_the_frozen_text_reads_back_as_the_values(right: list[str], tmp_path: Path):
    config = compose([*right, "optimizer.lr=1e-5"])
    run = RunFolder(tmp_path)
    run.config.write_text(frozen_text(config))
    assert run.read_config() == config.values
    assert "strategy=ddp" in frozen_text(config).splitlines()[0]


def test_a_plain_dump_reads_back_as_well(right: list[str]):
    values = compose(right).values
    assert yaml.safe_load(yaml.safe_dump(values)) == values


def test_every_difference_is_a_line(right: list[str]):
    old = compose(right).values
    new = compose([*right, "train.max_steps=20", "train.epochs=1", "optimizer.amsgrad=true", "data.eval=null"]).values
    assert sorted(difference(old, new)) == [
        "data.eval: 0.05 -> null",
        "optimizer.amsgrad: not set -> true",
        "train.max_steps: null -> 20",
    ]
    assert difference(new, new) == []
