"""How many machines and processes a launcher's settings ask for."""

import pytest

from distft.config.machines import node_range, num_gpus, processes_per_node


@pytest.mark.parametrize(("asked", "range_"), [(1, (1, 1)), (4, (4, 4)), ("2-4", (2, 4)), ("4-2", (2, 4))])
def test_a_number_is_that_many_and_a_range_its_ends(asked: int | str, range_: tuple[int, int]):
    assert node_range(asked) == range_


@pytest.mark.parametrize(("asked", "gpus"), [(None, 0), (0, 0), (4, 4), ("4", 4), ("a100:8", 8), ("a100:0", 0)])
def test_gpus_are_counted_with_and_without_their_kind(asked: int | str | None, gpus: int):
    assert num_gpus(asked) == gpus


def test_auto_is_this_machines_accelerators_only_where_the_run_is_here(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("distft.config.machines.num_accelerators", lambda: 3)
    assert processes_per_node({"processes_per_node": "auto"}) == 3
    assert processes_per_node({"processes_per_node": "auto", "gpus_per_node": None}) == 1
    assert processes_per_node({"processes_per_node": "auto", "gpus_per_node": "h100:8"}) == 8
    assert processes_per_node({"processes_per_node": 2, "gpus_per_node": 8}) == 2
    monkeypatch.setattr("distft.config.machines.num_accelerators", lambda: 0)
    assert processes_per_node({"processes_per_node": "auto"}) == 1
