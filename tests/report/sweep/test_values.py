"""Values lie where a reader looks for them, under the words a user types."""

import pytest

from distft.report.sweep.jobs import Scale, loss_text, number_text, shortened, value_text


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
    assert [loss_text(loss) for loss in (2.00004, 0.0123, 3e-5, 12345.6)] == ["2.0000", "0.0123", "3e-5", "1.235e4"]
    assert number_text(0.161, 2) == "0.16"


def test_a_long_word_keeps_its_beginning_and_its_end():
    assert shortened("warmup_stable_decay", 11) == "warmu…decay"
    assert shortened("cosine", 11) == "cosine"
    assert all(len(shortened("x" * 50, length)) == length for length in (5, 6, 18))
