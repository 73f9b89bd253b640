"""Forwards are counted in tokens unless rows are asked for, and what is typed wins over what an experiment sets."""

import shutil
from pathlib import Path

import pytest

from distft.config import ConfigError, compose
from distft.paths import conf_dir

ROWS, TOKENS = "train.micro_batch_size=2", "train.micro_batch_tokens=2048"
ON, OFF = "data.packing=true", "data.packing=false"


def sizes(overrides: list[str], folder: Path | None = None) -> tuple[bool, int, int | None]:
    values = compose(overrides, config_dir=folder).values
    training = values["train"]
    return values["data"]["packing"], training["micro_batch_size"], training["micro_batch_tokens"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ([], (True, 4, None)),
        ([ROWS], (False, 2, None)),
        ([TOKENS], (True, 4, 2048)),
        ([OFF], (False, 4, None)),
        ([ROWS, OFF], (False, 2, None)),
        ([ROWS, "train.micro_batch_tokens=null"], (False, 2, None)),
        ([TOKENS, ON], (True, 4, 2048)),
        (["eval.micro_batch_size=8"], (True, 4, None)),
    ],
    ids=str,
)
def test_a_size_says_what_is_counted(typed: list[str], expected: tuple[bool, int, int | None], right: list[str]):
    assert sizes([*right, *typed]) == expected


@pytest.mark.parametrize("typed", [[ROWS, ON], [ROWS, TOKENS], [ROWS, TOKENS, ON]], ids=str)
def test_rows_and_tokens_together_are_refused(typed: list[str], right: list[str]):
    with pytest.raises(ConfigError, match=r"train.micro_batch_size=2 has no effect .*=2 alone, for rows .* for tokens"):
        compose([*right, *typed])


def test_tokens_with_packing_off_are_refused(right: list[str]):
    with pytest.raises(ConfigError, match=r"micro_batch_tokens=2048 has no effect with data.packing=false"):
        compose([*right, TOKENS, OFF])


@pytest.mark.parametrize(
    ("experiment", "typed", "expected"),
    [
        ("train: {micro_batch_size: 8}", [], (False, 8, None)),
        ("train: {micro_batch_size: 8}", [ON], (True, 8, None)),
        ("train: {micro_batch_size: 8}", [TOKENS], (True, 8, 2048)),
        ("train: {micro_batch_tokens: 4096}", [], (True, 4, 4096)),
        ("train: {micro_batch_tokens: 4096}", [ROWS], (False, 2, None)),
        ("train: {micro_batch_tokens: 4096}\ndata: {packing: true}", [ROWS], (False, 2, None)),
        ("train: {micro_batch_tokens: 4096}", [OFF], (False, 4, None)),
        ("data: {packing: false}", [TOKENS], (True, 4, 2048)),
    ],
    ids=str,
)
def test_what_is_typed_wins_over_the_experiment(
    experiment: str, typed: list[str], expected: tuple[bool, int, int | None], right: list[str], tmp_path: Path
):
    folder = Path(shutil.copytree(conf_dir(), tmp_path / "conf"))
    (folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{experiment}\n")
    assert sizes([*right, "experiment=mine", *typed], folder) == expected


def test_each_job_of_a_sweep_over_rows_counts_rows(right: list[str]):
    assert [sizes([*right, f"train.micro_batch_size={size}"])[:2] for size in (1, 2)] == [(False, 1), (False, 2)]
