"""A node that falls behind the others is named with what it is slow at; nodes that are like each other are not."""

import random
from typing import Any

import pytest

from distft.doctor.preflight import Node, outliers

RATES = {"matrix product": 100.0, "memory": 10.0, "disk": 500.0}


def nodes(count: int, spread: float = 0.2, seed: int = 0, **given: Any) -> list[Node]:
    chance = random.Random(seed)

    def about(value: float) -> float:
        return value * chance.uniform(1 - spread, 1 + spread)

    found = []
    for i in range(count):
        pairs = {f"n{j % count}": about(1.0) for j in (i - 1, i + 1)} if count > 1 else {}
        found.append(
            Node(f"n{i}", {name: about(rate) for name, rate in RATES.items()}, about(0.01), pairs=pairs, **given)
        )
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(20))
def test_nodes_that_are_like_each_other_are_left_alone(count: int, seed: int):
    assert outliers(nodes(count, seed=seed)) == []


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("what", list(RATES))
def test_a_node_at_a_third_of_the_others_is_named(count: int, what: str):
    found = nodes(count)
    slow = found[1]
    found[1] = Node(slow.name, {**slow.rates, what: RATES[what] / 3}, slow.clock, pairs=slow.pairs)
    [outlier] = outliers(found)
    assert outlier.node == "n1" and outlier.why.startswith(f"{what}: {RATES[what] / 3:.3g} ")


def test_an_accelerator_is_held_to_more_than_a_core_that_others_may_use():
    slower = [Node("n0", {"matrix product": 70.0}, 0.0, on_accelerator=True)]
    rest = [Node(f"n{i}", {"matrix product": 100.0}, 0.0, on_accelerator=True) for i in (1, 2)]
    assert [each.node for each in outliers([*slower, *rest])] == ["n0"]
    assert outliers([Node("n0", {"matrix product": 70.0}, 0.0), *nodes(2, spread=0.01)]) == []


@pytest.mark.parametrize("count", [3, 4, 8])
def test_a_node_whose_every_pair_is_slow_is_named_and_a_single_slow_pair_names_nobody(count: int):
    def with_pairs(slow: set[frozenset[str]]) -> list[Node]:
        names = [f"n{i}" for i in range(count)]
        sides = [{names[i - 1], names[(i + 1) % count]} for i in range(count)]
        rate = {True: 0.1, False: 1.0}
        return [
            Node(me, RATES, 0.0, pairs={other: rate[frozenset((me, other)) in slow] for other in side})
            for me, side in zip(names, sides, strict=True)
        ]

    assert outliers(with_pairs({frozenset(("n0", "n1"))})) == []
    [outlier] = outliers(with_pairs({frozenset(("n0", "n1")), frozenset(("n1", "n2"))}))
    assert outlier.node == "n1" and "all-reduce with a neighbour" in outlier.why


def test_a_clock_that_is_off_and_a_gpu_in_trouble_are_named():
    found = nodes(3)
    late = Node("n3", RATES, found[0].clock - 40)
    sick = Node("n4", RATES, found[0].clock, troubles=["GPU 0: Xid 79: GPU has fallen off the bus"])
    assert [(each.node, each.why) for each in outliers([*found, late, sick])] == [
        ("n4", "GPU 0: Xid 79: GPU has fallen off the bus"),
        ("n3", "its clock is 40 s behind the others"),
    ]
