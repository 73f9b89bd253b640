"""A typed key wins over an untyped one, in each pair of keys for the same setting."""

import shutil
from pathlib import Path

import pytest

from distft.config import ConfigError, compose
from distft.config.key import WINS, leaves
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
def test_the_typed_batch_size_key_decides_the_unit(
    typed: list[str], expected: tuple[bool, int, int | None], right: list[str]
):
    assert sizes([*right, *typed]) == expected


@pytest.mark.parametrize("typed", [[ROWS, ON], [ROWS, TOKENS], [ROWS, TOKENS, ON]], ids=str)
def test_rows_and_tokens_together_are_refused(typed: list[str], right: list[str]):
    with pytest.raises(ConfigError, match=r"train.micro_batch_size=2 has no effect .*=2 alone, for rows .* for tokens"):
        compose([*right, *typed])


def test_tokens_with_packing_off_are_refused(right: list[str]):
    with pytest.raises(ConfigError, match=r"micro_batch_tokens=2048 has no effect with data.packing=false"):
        compose([*right, TOKENS, OFF])


@pytest.mark.slow
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
def test_a_typed_value_wins_over_the_experiment(
    experiment: str, typed: list[str], expected: tuple[bool, int, int | None], right: list[str], tmp_path: Path
):
    folder = Path(shutil.copytree(conf_dir(), tmp_path / "conf"))
    (folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{experiment}\n")
    assert sizes([*right, "experiment=mine", *typed], folder) == expected


def test_each_job_of_a_sweep_over_rows_counts_rows(right: list[str]):
    assert [sizes([*right, f"train.micro_batch_size={size}"])[:2] for size in (1, 2)] == [(False, 1), (False, 2)]


STEPS = "train.max_steps=100"


def length(overrides: list[str], folder: Path | None = None) -> tuple[int | None, float | None]:
    training = compose(overrides, config_dir=folder).values["train"]
    return training["max_steps"], training["epochs"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ([], (None, 1)),
        ([STEPS], (100, None)),
        ([STEPS, "train.epochs=1"], (100, 1)),
        (["train.epochs=2"], (None, 2)),
        (["train.max_steps=null"], (None, 1)),
        ([STEPS, "train.epochs=null"], (100, None)),
    ],
    ids=str,
)
def test_a_default_never_cuts_a_typed_length(typed: list[str], expected: tuple[int | None, float | None], right):
    assert length([*right, *typed]) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "own", "typed", "expected", "reported"),
    [
        ("{epochs: 2}", "", [STEPS], (100, None), 1),
        ("{epochs: 2}", "{max_steps: 7}", [], (7, None), 1),
        ("{max_steps: 7}", "", [], (7, None), 0),
        ("{max_steps: 7, epochs: 2}", "", [], (7, 2), 0),
        ("{max_steps: 7, epochs: null}", "", ["train.epochs=3"], (None, 3), 1),
        ("{max_steps: 7}", "{epochs: 4}", [STEPS], (100, 4), 0),  # a file counts as typed: the first reached ends
    ],
    ids=str,
)
def test_command_line_and_file_win_over_experiment_and_defaults(
    experiment: str, own: str, typed: list[str], expected: tuple, reported: int, right: list[str], tmp_path: Path
):
    folder = Path(shutil.copytree(conf_dir(), tmp_path / "conf"))
    (folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\ntrain: {experiment}\n")
    if own:
        (tmp_path / "own.yaml").write_text(f"train: {own}\n")
        typed = [f"config={tmp_path}/own.yaml", *typed]
    found = compose([*right, "experiment=mine", *typed], config_dir=folder)
    training = found.values["train"]
    assert (training["max_steps"], training["epochs"]) == expected and len(found.notes) == reported
    if reported:
        assert " of experiment=mine gives way to train." in found.notes[0]


def test_the_typed_batch_unit_replaces_the_other(right: list[str], tmp_path: Path):
    (tmp_path / "own.yaml").write_text("train: {global_batch_tokens: 4096}\n")
    mine = f"config={tmp_path}/own.yaml"
    assert compose([*right, mine]).values["train"]["global_batch_tokens"] == 4096
    assert compose([*right, mine, "train.global_batch_size=8"]).values["train"]["global_batch_tokens"] is None
    with pytest.raises(ConfigError, match="both say how big a step is"):
        compose([*right, "train.global_batch_tokens=4096", "train.global_batch_size=8"])


def test_every_row_of_the_table_names_existing_keys(right: list[str]):
    keys = {key for key, _ in leaves(compose(right).values)}
    assert {row.key for row in WINS} | {row.over for row in WINS} <= keys
