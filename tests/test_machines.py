"""How many machines and processes a launcher's settings request."""

import pytest

from distft.machines import NUMBERS, node_range, num_gpus, processes_per_node, wrong_numbers


@pytest.mark.parametrize(("asked", "range_"), [(1, (1, 1)), (4, (4, 4)), ("2-4", (2, 4)), ("4-2", (2, 4))])
def test_a_number_is_that_many_and_a_range_its_ends(asked: int | str, range_: tuple[int, int]):
    assert node_range(asked) == range_


@pytest.mark.parametrize(("asked", "gpus"), [(None, 0), (0, 0), (4, 4), ("4", 4), ("a100:8", 8), ("a100:0", 0)])
def test_gpus_are_counted_with_and_without_their_kind(asked: int | str | None, gpus: int):
    assert num_gpus(asked) == gpus


def test_auto_counts_local_accelerators_for_local_runs_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("distft.machines.num_accelerators", lambda: 3)
    assert processes_per_node({"processes_per_node": "auto"}) == 3
    assert processes_per_node({"processes_per_node": "auto", "gpus_per_node": None}) == 1
    assert processes_per_node({"processes_per_node": "auto", "gpus_per_node": "h100:8"}) == 8
    assert processes_per_node({"processes_per_node": 2, "gpus_per_node": 8}) == 2
    monkeypatch.setattr("distft.machines.num_accelerators", lambda: 0)
    assert processes_per_node({"processes_per_node": "auto"}) == 1


@pytest.mark.parametrize(("text", "is_wrong"), [("2", False), (" 4 ", False), ("0", True), ("abc", True), ("-3", True)])
def test_a_variable_that_must_be_a_number_is_checked(text: str, is_wrong: bool):
    for name in NUMBERS:
        said = wrong_numbers({name: text})
        assert [f"{name}={text} is not a whole number of at least 1. Try: unset {name}"] * is_wrong == said
    assert wrong_numbers({"OMP_NUM_THREADS": "4,2"}) == []


def test_a_variable_without_a_value_is_not_set():
    variables = dict.fromkeys(NUMBERS, "") | {"OTHER": ""}
    assert wrong_numbers(variables) == [] and variables == {"OTHER": ""}
