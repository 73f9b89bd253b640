"""Each key has a rule that is checked and described; a config is frozen, strict and complete."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from distft.config import compose
from distft.config.key import Count, Key, Number, Positive
from distft.config.schema import KEYS, Config

WITHOUT = ("strategy.stage", "sweep.trials", "launcher.warning_seconds")  # 0: there is none
NODES = Count | Annotated[str, Field(pattern=r"^\d+-\d+$", examples=["2-4"])]


@pytest.mark.parametrize(
    ("annotation", "rule"),
    [
        (Count | None, "a whole number of at least 1, or null"),
        (Annotated[Number, Field(gt=0, lt=1)], "a number above 0 and below 1"),
        (Literal["a", "b", "c"], "a, b or c"),
        (str | list, "text or a list"),
        (NODES, "a whole number of at least 1 or 2-4"),
    ],
)
def test_the_rule_reads_as_a_sentence(annotation: Any, rule: str):
    assert Key("k", annotation).rule() == rule


def test_true_is_not_a_number_and_a_whole_number_is_a_number():
    assert not Key("k", int).fits(True)
    assert not Key("k", Number).fits(True)
    assert not Key("k", bool).fits(1)
    assert Key("k", Number).fits(1)
    assert not Key("k", int).fits(1.0)


def test_nan_and_infinity_fit_no_range():
    assert not Key("k", Positive).fits(float("nan"))
    assert not Key("k", Annotated[Number, Field(gt=0, le=10)]).fits(float("inf"))


def test_text_must_match_its_pattern_as_a_whole():
    key = Key("k", NODES)
    assert key.fits("2-4") and key.fits(3)
    assert not any(key.fits(value) for value in ("2-4-6", "2-", "x2-4", "2-4\n", "", 0))


def test_every_pattern_matches_its_example():
    with_pattern = [key for key in KEYS if key.example]
    assert len(with_pattern) >= 5
    for key in with_pattern:
        assert key.fits(key.example), key.path


def test_no_key_is_listed_twice():
    assert len({key.path for key in KEYS}) == len(KEYS)


def test_every_key_has_help_and_a_default_of_its_own_type():
    for key in KEYS:
        assert key.help and (key.fits(key.default) or key.path in WITHOUT), key.path


def test_a_config_is_read_by_attribute_and_cannot_be_changed(right: list[str]):
    config = compose([*right, "train.max_grad_norm=2", "optimizer=sgd"])
    assert config.train.max_grad_norm == 2 and config.eval.early_stopping.patience is None
    assert config.optimizer.momentum == 0.9 and config.optimizer.target == "torch.optim.SGD"
    with pytest.raises(ValidationError, match="frozen"):
        config.train.max_grad_norm = 3  # type: ignore[misc]  # frozen
    changed = config.changed({"checkpoint.resume": "never"})
    assert (changed.checkpoint.resume, config.checkpoint.resume) == ("never", "auto")
    assert changed.choices == config.choices and changed.given == config.given


def test_a_keyword_that_was_not_set_is_not_passed_on(right: list[str]):
    strategy = compose(right).strategy
    assert strategy.shard_size is None and "shard_size" not in strategy.plain()
    assert strategy.plain().keys() == {"_target_", "layout"}


@pytest.mark.parametrize("values", [{"trian": {}}, {"train": {"max_stepz": 1}}, {"train": {"max_steps": "7"}}])
def test_the_model_refuses_unknown_keys_and_text_for_numbers(values: dict[str, Any]):
    with pytest.raises(ValidationError):
        Config.of(values)
