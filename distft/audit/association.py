"""Associations of groups with attributes in data, and what cleaning does to the rows that name a group.

Each group is compared with the other groups of its axis. The log-odds ratio asks whether an attribute is likelier in
the company of the group than in theirs; pointwise mutual information (PMI) says how much likelier than by chance.
Every test of an audit is one of many: Benjamini and Hochberg's correction runs over all of them together.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from distft.audit.measures import SIGNIFICANT, Measure
from distft.audit.mentions import ALL, WINDOW, Cell, Counts
from distft.audit.statistics import (
    LogOdds,
    benjamini_hochberg,
    difference_of_shares,
    independence,
    log_odds,
    wilson,
)
from distft.audit.terms import Attribute, Group

PRIOR = 50.0  # draws that the prior of the log-odds is worth
FEWEST = 10  # rows with group or others and attribute, from which an association is tested
SHOWN = 3  # of the strongest associations of a group that are not significant
MENTIONS_LIMITS = (
    "English words of a list, without their sense or the name of a person; a group that is not listed is not counted"
)
ASSOCIATION_LIMITS = (
    f"both within {WINDOW} words; a word has other senses, and who is meant is not resolved; an association in "
    "the data may mirror the world or the choice of sources"
)
FILTER_LIMITS = "rows that name the group; a row may be dropped for another reason than its words about it"


def mentions(before: Counts, after: Counts | None) -> list[Measure]:
    """Returns the mentions of each group per million words, in all parts of the data."""
    found = []
    for part, cell in before.cells.items():
        kept = after.cells.get(part, Cell()) if after else None
        for group in before.terms.groups:
            count = cell.mentions[group]
            if not count and part != ALL:
                continue
            found.append(_mention(part, group, cell, kept))
    return found


def _mention(part: str, group: Group, cell: Cell, kept: Cell | None) -> Measure:
    per_million = 1e6 / max(1, cell.words)
    low, high = wilson(min(cell.mentions[group], cell.words), cell.words)
    tuned = None
    interval: tuple[float, float] = (1e6 * low, 1e6 * high)
    if kept is not None:
        tuned = 1e6 * kept.mentions[group] / max(1, kept.words)
        ends = difference_of_shares((kept.mentions[group], kept.words), (cell.mentions[group], cell.words))
        interval = (1e6 * ends[0], 1e6 * ends[1])
    return Measure(
        group.axis, "mentions_per_million", cell.mentions[group] * per_million, tuned, *interval,
        n=cell.rows_with[group], flag=False, limits=MENTIONS_LIMITS, group=group.name, where=part,
        note=f"in {cell.rows_with[group]:,} of {cell.rows:,} rows",
    )  # fmt: skip


@dataclass(frozen=True)
class Association:
    """One attribute in the company of one group, against the other groups of its axis."""

    part: str
    group: Group
    attribute: Attribute
    rows: int  # with the group and the attribute
    others: int  # with another group and the attribute
    pmi: float
    odds: LogOdds


def associations(counts: Counts) -> list[Measure]:
    """Returns the significant associations of all parts, and the strongest others; p-values are corrected."""
    tested = [each for part, cell in counts.cells.items() for each in _tested(part, cell, counts)]
    adjusted = benjamini_hochberg([each.odds.p for each in tested])
    order = sorted(range(len(tested)), key=lambda i: -abs(tested[i].odds.z))
    shown: dict[tuple[str, Group], int] = {}
    found = []
    for i in order:
        each, p = tested[i], adjusted[i]
        key = (each.part, each.group)
        if p >= SIGNIFICANT:
            shown[key] = shown.get(key, 0) + 1
            if shown[key] > SHOWN or each.part != ALL:
                continue
        found.append(_association(each, p, len(tested)))
    return found


def _tested(part: str, cell: Cell, counts: Counts) -> Iterator[Association]:
    for group in counts.terms.groups:
        total, other_total = cell.rows_with[group], cell.rows_with_others[group]
        if not total or not other_total:
            continue
        for attribute in counts.terms.attributes:
            rows, others = cell.together[group, attribute], cell.others[group, attribute]
            if rows + others < FEWEST:
                continue
            background = cell.rows_with[attribute] / cell.rows
            odds = log_odds((rows, others), (total, other_total), background, PRIOR)
            pmi = _pmi(rows, total, cell.rows_with[attribute], cell.rows)
            yield Association(part, group, attribute, rows, others, pmi, odds)


def _pmi(together: int, one: int, other: int, rows: int) -> float:
    """Returns how many bits likelier two terms are together than by chance; -inf where they never are."""
    return math.log2(together * rows / (one * other)) if together else -math.inf


def _association(found: Association, p: float, tests: int) -> Measure:
    return Measure(
        found.group.axis, f"association:{found.attribute.kind}", found.odds.value, None, *found.odds.interval,
        n=found.rows + found.others, flag=p < SIGNIFICANT, limits=ASSOCIATION_LIMITS,
        group=f"{found.group.name} with {found.attribute.term}", where=found.part, p=p,
        note=f"log-odds; {found.rows:,} rows with {found.group.name}, {found.others:,} with others; "
        f"PMI {found.pmi:.2f} bits; one of {tests:,} tests",
    )  # fmt: skip


def filters(groups: Sequence[Group], named: dict[Group, int], dropped: dict[str, dict[Group, int]],
            rows: int, dropped_rows: dict[str, int]) -> list[Measure]:  # fmt: skip
    """Returns, for each rule and group, the share of rows that name the group before and after the rule.

    named: rows that name a group. dropped: the same of the rows that a rule drops. A rule that drops rows of a group
    more often than others is flagged, after correction over all rules and groups.
    """
    made, p_values = [], []
    for rule, count in dropped_rows.items():
        kept = rows - count
        for group in groups:
            before, lost = named.get(group, 0), dropped.get(rule, {}).get(group, 0)
            if not before or not kept:
                continue
            low, high = difference_of_shares((before - lost, kept), (lost, count))
            share = count / rows  # after - before = share of dropped rows x (share among kept - share among dropped)
            p_values.append(independence([[lost, before - lost], [count - lost, kept - before + lost]]))
            rest = (count - lost) / max(1, rows - before)
            made.append(
                Measure(
                    group.axis,
                    f"filter:{rule}",
                    before / rows,
                    (before - lost) / kept,
                    low * share,
                    high * share,
                    n=before,
                    flag=False,
                    limits=FILTER_LIMITS,
                    group=group.name,
                    note=f"drops {lost / before:.1%} of its rows, {rest:.1%} of the others",
                )
            )
    adjusted = benjamini_hochberg(p_values)
    return [replace(each, p=p, flag=p < SIGNIFICANT) for each, p in zip(made, adjusted, strict=True)]
