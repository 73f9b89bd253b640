"""Checkpoints are saved by the clock unless a step interval is set; a typed key wins over an experiment's."""

import pytest

from distft.config import ConfigError, compose
from distft.config.rules import broken_by_length
from distft.config.rules.contract import Facts

STEPS, MINUTES = "checkpoint.every_steps=100", "checkpoint.every_minutes=5"
NO_STEPS, NO_MINUTES = "checkpoint.every_steps=null", "checkpoint.every_minutes=null"
EXPERIMENT = "experiment=one_node_8gpu"  # every 200 steps


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ([], (None, 15)),
        ([STEPS], (100, None)),
        ([MINUTES], (None, 5)),
        ([STEPS, MINUTES], (100, 5)),
        ([NO_STEPS], (None, 15)),
        ([STEPS, NO_MINUTES], (100, None)),
        ([EXPERIMENT], (200, None)),
        ([EXPERIMENT, STEPS], (100, None)),
        ([EXPERIMENT, MINUTES], (None, 5)),
        ([EXPERIMENT, NO_MINUTES], (200, None)),
        ([EXPERIMENT, NO_STEPS], (None, 15)),
        ([EXPERIMENT, NO_STEPS, MINUTES], (None, 5)),
    ],
    ids=str,
)
def test_typed_keys_decide_when_to_save(typed: list[str], expected: tuple[int | None, float | None], right: list[str]):
    settings = compose([*right, "launcher.processes_per_node=1", *typed]).values["checkpoint"]
    assert (settings["every_steps"], settings["every_minutes"]) == expected


@pytest.mark.parametrize("typed", [[NO_MINUTES], [NO_STEPS, NO_MINUTES], [EXPERIMENT, NO_STEPS, NO_MINUTES]], ids=str)
def test_a_run_always_saves(typed: list[str], right: list[str]):
    with pytest.raises(ConfigError, match="a crash would lose the whole run. Try: checkpoint.every_minutes=15"):
        compose([*right, "launcher.processes_per_node=1", *typed])


@pytest.mark.parametrize("word", ["best", "latest", "step-00000004", "step-4", "4"])
def test_a_checkpoint_to_resume_is_named_by_its_path(word: str, right: list[str]):
    with pytest.raises(ConfigError, match=rf"named by its path. Try: .*/runs/mine/checkpoints/{word}$"):
        compose([*right, "name=mine", "runs_dir=/elsewhere/runs", f"checkpoint.resume={word}"])


HALVES = ["schedule=wsd", "schedule.warmup_steps=0.5", "schedule.decay_steps=0.5"]


@pytest.mark.parametrize(
    ("typed", "steps", "reported"),
    [
        (
            ["schedule.warmup_steps=20"],
            6,
            "leaves none of the run's 6 steps for training. Try: schedule.warmup_steps=0.1",
        ),
        (["schedule.warmup_steps=5"], 6, None),
        (["schedule.warmup_steps=0.9"], 1, None),
        (HALVES, 7, None),
        (["schedule=wsd", "schedule.warmup_steps=95"], 100, None),
        (["schedule=wsd", "schedule.warmup_steps=95", "schedule.decay_steps=0.1"], 100, "Try: schedule.decay_steps=5"),
        (["schedule=wsd", "schedule.decay_steps=9"], 6, "Try: schedule.decay_steps=6"),
        (["data.eval=0.2", "eval.every_steps=9", "eval.early_stopping.patience=2"], 9, "Try: eval.every_steps=3"),
        (["data.eval=0.2", "eval.every_steps=8", "eval.early_stopping.patience=2"], 9, None),
        (["data.eval=0.2", "eval.every_steps=9", "eval.at_ends=false"], 8, "Try: eval.at_ends=true"),
        (["data.eval=0.2", "eval.every_steps=9", "eval.at_ends=false"], 9, None),
        (["data.eval=0.2", "eval.every_steps=9"], 8, None),
    ],
    ids=str,
)
def test_warm_up_and_intervals_fit_into_the_steps_of_the_rows(
    typed: list[str], steps: int, reported: str | None, right: list[str]
):
    """As train.max_steps would be held to them."""
    config = compose([*right, *typed])
    found = broken_by_length(Facts(config.values, config.choices, config.given), steps)
    assert (reported is None and not found) or (reported is not None and len(found) == 1 and reported in found[0])
    end = f"train.max_steps={steps}"
    if reported is None:
        compose([*right, *typed, end])
    else:
        with pytest.raises(ConfigError) as caught:
            compose([*right, *typed, end])
        assert caught.value.messages == found


@pytest.mark.parametrize("half", [["schedule.warmup_steps=0.6"], ["schedule.decay_steps=0.6"]], ids=str)
def test_fractions_above_the_run_are_refused_for_any_length(half: list[str], right: list[str]):
    with pytest.raises(ConfigError, match="are more than all steps of the run. Try: schedule.decay_steps=0"):
        compose([*right, *HALVES, *half])
