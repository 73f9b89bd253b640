"""Who judges what, in which order, and which answer comes first: drawn from the study's seed.

Every item goes to `overlap` raters, and loads differ by one item at most. For each rater each system is the first
answer of half of its items, up to one. Some items come again later, half of them with the answers swapped. Attention
checks are spread over the session. Practice comes first.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distft.human_eval.study import Item, Kind


@dataclass(frozen=True)
class Slot:
    """One page of one rater. swapped: the item's second answer is shown first."""

    item: str
    kind: Kind
    swapped: bool = False


@dataclass(frozen=True)
class Design:
    """How the pages of a rater are made. repeat, attention: shares of the items of a rater."""

    raters: int
    overlap: int
    repeat: float
    attention: float


def assign(items: Sequence[str], raters: int, overlap: int, rng: random.Random) -> list[list[str]]:
    """Returns the items of each rater: each item for `overlap` different raters, the least loaded first."""
    loads: list[list[str]] = [[] for _ in range(raters)]
    for item in rng.sample(items, len(items)):
        ranked = sorted(range(raters), key=lambda rater: (len(loads[rater]), rng.random()))
        for rater in ranked[:overlap]:
            loads[rater].append(item)
    return [rng.sample(load, len(load)) for load in loads]


def balanced(items: Sequence[str], sides: Mapping[str, tuple[int, ...]], rng: random.Random) -> list[bool]:
    """Returns for each item whether its answers are swapped.

    Within each pair of systems either one is first in half of the items, up to one. sides: item -> its systems.
    """
    swapped = dict[str, bool]()
    groups: dict[tuple[int, ...], list[str]] = {}
    for item in items:
        groups.setdefault(tuple(sorted(sides[item])), []).append(item)
    extra = rng.random() < 0.5  # which system of a group of odd size is first once more
    for systems, group in sorted(groups.items()):
        firsts = [(number + extra) % 2 for number in range(len(group))]
        extra ^= len(group) % 2 == 1
        rng.shuffle(firsts)
        for item, first in zip(group, firsts, strict=True):
            swapped[item] = len(systems) > 1 and sides[item][0] != systems[first]
    return [swapped[item] for item in items]


def slots_of(
    items: Sequence[str],
    sides: Mapping[str, tuple[int, ...]],
    checks: Sequence[Item],
    practice: Sequence[Item],
    design: Design,
    rng: random.Random,
) -> list[Slot]:
    """Returns the pages of one rater in order: practice, then items with checks and repeats between them."""
    is_pair = all(len(systems) > 1 for systems in sides.values())
    main = [Slot(item, "main", swap) for item, swap in zip(items, balanced(items, sides, rng), strict=True)]
    count = round(design.repeat * len(main))
    early = main[: max(1, len(main) // 2)]
    again = rng.sample(early, min(count, len(early)))
    late = main[len(main) // 2 :]
    for number, slot in enumerate(again):
        swap = is_pair and number % 2 == 1
        late.append(Slot(slot.item, "swap" if swap else "repeat", slot.swapped ^ swap))
    rng.shuffle(late)
    order = main[: len(main) // 2] + late
    wanted = round(design.attention * len(main)) if checks else 0
    for number in range(wanted):  # spread over the whole session, either side expected equally often
        at = (number + 1) * len(order) // (wanted + 1)
        order.insert(at, Slot(checks[number % len(checks)].id, "attention", number % 2 == 1))
    return [*(Slot(item.id, "practice", rng.random() < 0.5) for item in practice), *order]
