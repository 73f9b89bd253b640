"""The jobs of a sweep are read from its current files.

Swept values are ordered and labeled as a user types them.
"""

import json
from pathlib import Path

import pytest

from distft.config.errors import ConfigError
from distft.report.sweep.jobs import Scale, find_sweep, metric_text, number_text, read_sweep, shortened, value_text
from distft.run import RunFolder
from tests.report.conftest import train_row
from tests.report.sweep.conftest import Run, write_sweep


def test_numbers_are_those_of_the_runs_files(make_sweep):
    [job] = make_sweep([Run({"optimizer.lr": 1e-4}, losses=(2.5, 1.2, 1.6), seed=7, world=4)], ["optimizer.lr"]).jobs
    assert (job.objective, job.objective_step) == (1.2, 4)
    assert (job.seed, job.train_loss, job.peak_memory_gib, job.eval_tokens) == (7, 2.0 / 8, 3.25, 1300)
    assert job.tokens == 8 * 900
    assert job.process_hours == pytest.approx(8 * 9 * 4 / 3600)
    assert job.command == "python -m distft.launch name=00 optimizer.lr=0.0001"


def test_the_recorded_objective_is_used_and_its_step_found(make_sweep):
    recorded = [Run({}, losses=(2.5, 1.9, 1.5), objective=1.9), Run({}, losses=(2.5,), objective=1.0)]
    assert [(job.objective, job.objective_step) for job in make_sweep(recorded, []).jobs] == [(1.9, 4), (1.0, None)]


def test_non_finite_losses_are_not_an_objective(make_sweep):
    runs = [Run({}, losses=(float("nan"), float("inf"))), Run({}, losses=(float("nan"), 2.0), objective=float("nan"))]
    first, second = make_sweep(runs, []).jobs
    assert (first.objective, first.is_ranked) == (None, False)
    assert (second.objective, second.objective_step) == (2.0, 4)


def test_a_run_that_waits_has_no_numbers(make_sweep):
    [job] = make_sweep([Run({"seed": 5}, state="pending")]).jobs
    assert (job.objective, job.train_loss, job.peak_memory_gib, job.tokens, job.seed) == (None, None, None, 0, 5)


def test_a_line_cut_off_by_a_crash_is_left_out(make_sweep, tmp_path: Path):
    make_sweep([Run({})], [])
    with RunFolder(tmp_path / "sweep" / "00").metrics.open("a") as file:
        file.write(json.dumps(train_row(9, loss=0.1))[:40])
    [job] = read_sweep(tmp_path / "sweep").jobs
    assert job.train_loss == 2.0 / 8


def test_a_folder_without_a_sweep_is_refused_with_a_suggestion(tmp_path: Path):
    write_sweep(tmp_path / "rates", [Run({})])
    with pytest.raises(
        ConfigError, match=r"sweep=.*rate: not a sweep folder \(no sweep_status.json\). Did you mean .*/rates"
    ):
        find_sweep(str(tmp_path / "rate"))
    with pytest.raises(ConfigError, match=r"It is a run folder. Try: run=.*rates/00"):
        find_sweep(str(tmp_path / "rates" / "00"))


@pytest.mark.parametrize("text", ["{", '{"name": "a"}'])
def test_a_damaged_status_is_named(tmp_path: Path, text: str):
    (tmp_path / "sweep_status.json").write_text(text)
    with pytest.raises(ConfigError, match="sweep_status.json is damaged"):
        read_sweep(tmp_path)


@pytest.mark.parametrize(
    "values, kind",
    [
        ([1e-5, 1e-3], "log"),
        (["1e-5", "1e-3"], "log"),  # as YAML reads them
        ([1, 30], "linear"),
        ([1, 31], "log"),
        ([0, 0.1, 0.2], "linear"),
        ([0, 1e-4, 0.1], "words"),  # zero has no place on a log axis
        ([-1, 1], "linear"),
        ([8, "auto"], "words"),
        ([True, False], "words"),
        ([None, 1.0], "words"),
        ([[0.9, 0.95], [0.9, 0.999]], "words"),
        ([3], "linear"),
    ],
)
def test_wide_ranges_are_logarithmic_and_words_in_order(values, kind):
    scale = Scale.of(values)
    assert scale.kind == kind
    places = [scale.share(scale.place(choice)) for choice in scale.choices]
    assert places == sorted(places)
    assert places in ([0.5], [0.0, 1.0]) or (places[0], places[-1]) == (0, 1)


def test_numbers_come_before_words_and_each_value_once():
    assert Scale.of(["b", 10, None, 9, "a", 9]).choices == [9, 10, "a", "b", None]


def test_equal_ratios_are_equal_distances():
    scale = Scale.of([1e-5, 1e-4, 1e-3])
    assert scale.share(1e-4) == pytest.approx(0.5)


def test_few_values_are_labels_and_many_get_round_labels():
    assert [label for _, label in Scale.of([1e-5, 2e-4, 3e-3]).ticks()] == ["1e-5", "2e-4", "0.003"]
    many = Scale.of([1.07e-5 * 1.1**n for n in range(60)])
    assert [label for _, label in many.ticks()] == ["3e-5", "1e-4", "3e-4", "0.001"]
    assert [label for _, label in Scale.of(range(3, 28)).ticks()] == ["5", "10", "15", "20", "25"]


@pytest.mark.parametrize(
    "value, text",
    [
        (1e-5, "1e-5"), (2.3456789e-5, "2.346e-5"), (0.0003, "3e-4"), (0.001, "0.001"), (16384.0, "16384"),
        (1.5e9, "1.5e9"), (4096, "4096"), (None, "null"), (True, "true"), ("adamw", "adamw"), ("", "''"),
        ([0.9, 0.95], "[0.9, 0.95]"), (0.0, "0"), (-2e-5, "-2e-5"),
    ],
)  # fmt: skip
def test_a_value_is_written_as_a_user_types_it(value, text):
    assert value_text(value) == text


def test_losses_keep_their_digits():
    assert [metric_text(loss) for loss in (2.00004, 0.0123, 3e-5, 12345.6)] == ["2.0000", "0.0123", "3e-5", "1.235e4"]
    assert number_text(0.161, 2) == "0.16"


def test_a_long_word_keeps_its_beginning_and_its_end():
    assert shortened("warmup_stable_decay", 11) == "warmu…decay"
    assert shortened("cosine", 11) == "cosine"
    assert all(len(shortened("x" * 50, length)) == length for length in (5, 6, 18))
