"""The numbers of analysis.json: comparisons of systems, agreement, biases, slices and disagreements."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np

from distft.evaluate.statistics import holm
from distft.human_eval import bradley_terry, intervals
from distft.human_eval.agreement import krippendorff_alpha, mean_kappa
from distft.human_eval.analysis import (
    Agreement,
    AllVotes,
    Analysis,
    Biases,
    BradleyTerry,
    Comparison,
    Disagreement,
    Exclusions,
    Rate,
    ShortRate,
    Slice,
    alpha_json,
    rate_of,
)
from distft.human_eval.intervals import Interval
from distft.human_eval.pages import passed
from distft.human_eval.ratings import add_ratings
from distft.human_eval.study import Item, Key, Settings, Study, digest
from distft.human_eval.votes import Vote
from distft.run import json_text

FEW = 30  # votes below which a slice is marked
SCORES = {"tie": 0.5, "both_bad": 0.5}


@dataclass(frozen=True)
class Judged:
    """A vote by system. scores: of the pair's first system. extra: its length over the other's, in characters."""

    vote: Vote
    row: int  # the prompt
    pair: tuple[int, int]  # systems, the smaller index first
    score: float
    extra: int


def results(
    study: Study,
    settings: Settings,
    items: Mapping[str, Item],
    key: Key,
    votes: Sequence[Vote],
    excluded: Exclusions,
    undone: int,
) -> Analysis:
    """Returns the content of analysis.json without what only `analyze` knows. undone: votes that were taken back."""
    out = {each["rater"] for each in excluded["raters"]}
    counted = [v for v in votes if v.rater not in out and not is_fast(v, settings)]
    main = [vote for vote in counted if vote.kind == "main"]
    given = [vote for vote in main if vote.choice != "skip"]
    seconds = [vote.seconds for vote in given if vote.seconds is not None]
    result: Analysis = {
        "study": study.path.name,
        "title": settings.title,
        "type": settings.type,
        "systems": [system.name for system in key.systems],
        "counts": {
            "raters": len({vote.rater for vote in given}),
            "items": len({vote.item for vote in given}),
            "planned_votes": settings.planned_votes,
            "votes": sum(vote.kind == "main" for vote in votes),
            "used": len(given),
            "skipped": len(main) - len(given),
            "excluded": sum(vote.kind == "main" for vote in votes) - len(main),
            "undone": undone,
        },
        "exclusions": excluded,
        "seconds_per_vote": median(seconds) if seconds else None,
    }
    if not given:  # all raters are excluded
        pass
    elif settings.type == "rating":
        add_ratings(result, settings, key, given)
    else:
        judged = [judge_vote(vote, key, items) for vote in given]
        compared = comparisons(key, judged)
        if len(compared) == 1:
            rate = compared[0]["win_rate"]
            result["win_rate"] = {**rate, "of": compared[0]["a"], "n": compared[0]["votes"]}
        result["comparisons"] = compared
        result["bradley_terry"] = strengths(key, judged)
        result["without_exclusions"] = without_exclusions(key, items, votes)
        result["agreement"] = agreement(key, items, counted)
        result["biases"] = biases(judged)
        result["slices"] = slices(key, items, judged)
        result["reasons"] = reasons(key, judged)
        result["disagreements"] = disagreements(key, items, judged)
    result["attention"] = attention(votes, items)
    result["self_agreement"] = self_agreement(counted)
    result["votes_sha256"] = votes_hash(votes)
    result["items_sha256"] = settings.items_sha256
    result["seed"] = settings.seed
    result["answers_sha256"] = {system.name: system.sha256 for system in key.systems}
    return result


def is_fast(vote: Vote, settings: Settings) -> bool:
    return vote.seconds is not None and vote.seconds < settings.min_seconds


def votes_hash(votes: Sequence[Vote]) -> str:
    return digest("".join(json_text(asdict(vote)) for vote in votes).encode())


def judge_vote(vote: Vote, key: Key, items: Mapping[str, Item]) -> Judged:
    """Returns a vote by system instead of by place on the page."""
    row, order = key.items[vote.item]
    shown = order[::-1] if vote.swapped else order
    lengths = dict(zip(order, (len(text) for text in items[vote.item].answers), strict=True))
    first, second = sorted(shown)
    score = SCORES.get(vote.choice)
    if score is None:
        score = float(shown["ab".index(vote.choice)] == first)
    return Judged(vote, row, (first, second), score, lengths[first] - lengths[second])


def codes(values: Sequence[Any]) -> np.ndarray:
    """Returns each value's index among the sorted distinct ones."""
    return np.unique(np.asarray(values), return_inverse=True)[1].astype(np.int64)


def interval_json(interval: Interval | None) -> Rate | None:
    return rate_of(interval) if interval else None


def comparisons(key: Key, judged: Sequence[Judged]) -> list[Comparison]:
    """Returns the comparison of each two systems, with p-values adjusted for their number."""
    pairs = [pair for pair in combinations(range(len(key.systems)), 2) if any(each.pair == pair for each in judged)]
    found = [comparison(key, pair, [each for each in judged if each.pair == pair]) for pair in pairs]
    for each, adjusted in zip(found, holm([each["p"] for each in found]), strict=True):
        each["p_holm"] = adjusted
    return found


def strengths(key: Key, judged: Sequence[Judged]) -> BradleyTerry:
    """Returns the strengths of the systems by the models of Bradley and Terry, and of Davidson."""
    votes = bradley_terry.Votes(
        first=np.array([each.pair[0] for each in judged]),
        second=np.array([each.pair[1] for each in judged]),
        scores=np.array([each.score for each in judged]),
        raters=codes([each.vote.rater for each in judged]),
        prompts=codes([each.row for each in judged]),
    )
    count = len(key.systems)
    names = [system.name for system in key.systems]
    halves, fit = bradley_terry.strengths(votes, count), bradley_terry.davidson(votes, count)
    return {
        "unit": "log-odds over the mean system; times 400/ln 10 for an Elo difference",
        "ties_as_half": {name: asdict(each) for name, each in zip(names, halves, strict=True)} if halves else None,
        "davidson": {"strengths": dict(zip(names, map(float, fit[0]), strict=True)), "tie_parameter": fit[1]}
        if fit
        else None,
    }


def comparison(key: Key, pair: tuple[int, int], judged: Sequence[Judged]) -> Comparison:
    """Returns the votes on two systems, the first one's win rate with intervals, and tests of no difference."""
    scores = np.array([each.score for each in judged])
    raters, prompts = codes([each.vote.rater for each in judged]), codes([each.row for each in judged])
    wins, losses = int((scores == 1).sum()), int((scores == 0).sum())
    bad = sum(each.vote.choice == "both_bad" for each in judged)
    rng = np.random.default_rng(0)
    rate = intervals.clustered(scores, raters, prompts)
    sign_test, permutation = intervals.sign_test(wins, losses), intervals.permutation_test(scores, prompts, rng)
    extra = np.array([each.extra for each in judged], dtype=np.float64)
    return {
        "a": key.systems[pair[0]].name,
        "b": key.systems[pair[1]].name,
        "votes": len(judged),
        "raters": len(np.unique(raters)),
        "prompts": len(np.unique(prompts)),
        "wins_a": wins,
        "wins_b": losses,
        "ties": len(judged) - wins - losses - bad,
        "both_bad": bad,
        "win_rate": interval_json(rate) or {"value": float(scores.mean()), "low": None, "high": None},
        "bootstrap": {
            "by_rater": interval_json(intervals.bootstrap(scores, [raters], rng)),
            "by_prompt": interval_json(intervals.bootstrap(scores, [prompts], rng)),
            "by_both": interval_json(intervals.bootstrap(scores, [raters, prompts], rng)),
        },
        "of_decided": interval_json(intervals.wilson(wins, wins + losses)) if wins + losses else None,
        "length_controlled": bradley_terry.length_controlled(scores, extra),
        "tests": {"sign_test": sign_test, "permutation": permutation},
        "p": permutation,
        "p_holm": permutation,  # `comparisons` adjusts it
    }


def without_exclusions(key: Key, items: Mapping[str, Item], votes: Sequence[Vote]) -> list[AllVotes]:
    """Returns the win rates with the excluded votes too: whether the exclusions decide the result."""
    judged = [judge_vote(vote, key, items) for vote in votes if vote.kind == "main" and vote.choice != "skip"]
    found: list[AllVotes] = []
    for pair in sorted({each.pair for each in judged}):
        own = [each for each in judged if each.pair == pair]
        scores = np.array([each.score for each in own])
        rate = intervals.clustered(scores, codes([e.vote.rater for e in own]), codes([e.row for e in own]))
        a, b = (key.systems[index].name for index in pair)
        win_rate = interval_json(rate) or ShortRate(value=float(scores.mean()))
        found.append({"a": a, "b": b, "votes": len(own), "win_rate": win_rate})
    return found


def agreement(key: Key, items: Mapping[str, Item], counted: Sequence[Vote]) -> Agreement:
    """Returns alpha and kappa of the main votes; a vote's value is the system it prefers, tie, or both bad."""
    main = [vote for vote in counted if vote.kind == "main" and vote.choice != "skip"]
    order = {"1.0": 0, "0.0": 1, "tie": 2, "both_bad": 3}
    item_codes = codes([vote.item for vote in main])
    counts = np.zeros((int(item_codes.max()) + 1, len(order)), dtype=np.int64)
    by_rater: dict[str, dict[str, str]] = {}
    for vote, item in zip(main, item_codes, strict=True):
        value = vote.choice if vote.choice in SCORES else str(judge_vote(vote, key, items).score)
        counts[item, order[value]] += 1
        by_rater.setdefault(vote.rater, {})[vote.item] = value
    kappa, pairs = mean_kappa(by_rater)
    alpha = krippendorff_alpha(counts, range(len(order)), "nominal", np.random.default_rng(0))
    return {"krippendorff_alpha": alpha_json(alpha), "mean_kappa": kappa, "rater_pairs": pairs}


def share_json(count: int, n: int) -> Rate | None:
    return {**rate_of(intervals.wilson(count, n)), "n": n} if n else None


def biases(judged: Sequence[Judged]) -> Biases:
    """Returns how often the first answer on the page won, and how often the longer one did; 0.5: no bias."""
    decided = [each for each in judged if each.vote.choice in "ab"]
    lengthy = [each for each in decided if each.extra]
    longer = sum((each.extra > 0) == (each.score == 1) for each in lengthy)
    return {
        "first_answer": share_json(sum(each.vote.choice == "a" for each in decided), len(decided)),
        "longer_answer": share_json(longer, len(lengthy)),
    }


def self_agreement(counted: Sequence[Vote]) -> dict[str, Rate | None]:
    """Returns how often a rater voted alike when an item came again, in the same order and swapped."""
    first = {(vote.rater, vote.item): vote for vote in counted if vote.kind == "main" and vote.choice != "skip"}
    found: dict[str, Rate | None] = {}
    for kind, name in (("repeat", "same_order"), ("swap", "swapped")):
        again = [v for v in counted if v.kind == kind and v.choice != "skip" and (v.rater, v.item) in first]
        same = sum(is_same(first[v.rater, v.item], v) for v in again)
        found[name] = share_json(same, len(again))
    return found


def is_same(one: Vote, other: Vote) -> bool:
    turned = {"a": "b", "b": "a"} if one.swapped != other.swapped else {}
    return (one.choice, one.ratings) == (turned.get(other.choice, other.choice), other.ratings)


def attention(votes: Sequence[Vote], items: Mapping[str, Item]) -> Rate | None:
    checks = [vote for vote in votes if vote.kind == "attention" and vote.choice != "skip"]
    return share_json(sum(passed(items[v.item], v.swapped, v.choice) for v in checks), len(checks))


def slices(key: Key, items: Mapping[str, Item], judged: Sequence[Judged]) -> list[Slice]:
    """Returns the win rates within each category, and for short and long prompts; `few`: under 30 votes."""
    sizes = {item: sum(len(turn.text) for turn in items[item].prompt) for item in key.items}
    middle = median(sizes.values())
    kinds: dict[str, Callable[[Judged], str]] = {
        "category": lambda each: key.categories.get(each.vote.item, ""),
        "prompt length": lambda each: "long" if sizes[each.vote.item] > middle else "short",
    }
    found: list[Slice] = []
    for kind, of in kinds.items():
        for name in sorted({of(each) for each in judged} - {""}):
            for pair in sorted({each.pair for each in judged}):
                own = [each for each in judged if each.pair == pair and of(each) == name]
                if not own:
                    continue
                scores = np.array([each.score for each in own])
                rate = intervals.clustered(scores, codes([e.vote.rater for e in own]), codes([e.row for e in own]))
                a, b = (key.systems[index].name for index in pair)
                rates = interval_json(rate) or Rate(value=float(scores.mean()), low=None, high=None)
                about = Slice(slice=kind, value=name, a=a, b=b, votes=len(own), few=len(own) < FEW, win_rate=rates)
                found.append(about)
    return found


def reasons(key: Key, judged: Sequence[Judged]) -> dict[str, dict[str, int]]:
    """Returns how often each reason was ticked for each system that won."""
    found: dict[str, dict[str, int]] = {system.name: {} for system in key.systems}
    for each in judged:
        if each.score in (0.0, 1.0):
            own = found[key.systems[each.pair[int(each.score == 0)]].name]
            for reason in each.vote.reasons:
                own[reason] = own.get(reason, 0) + 1
    return found


def disagreements(key: Key, items: Mapping[str, Item], judged: Sequence[Judged], most: int = 10) -> list[Disagreement]:
    """Returns the items on which raters preferred different systems, the most divided first."""
    by_item: dict[str, list[Judged]] = {}
    for each in judged:
        by_item.setdefault(each.vote.item, []).append(each)
    found: list[Disagreement] = []
    for item, own in by_item.items():
        wins, losses = sum(e.score == 1 for e in own), sum(e.score == 0 for e in own)
        if wins and losses:
            a, b = (key.systems[i].name for i in own[0].pair)
            text = items[item].prompt[-1].text
            comments = [e.vote.comment for e in own if e.vote.comment]
            names = Disagreement(item=item, prompt=text[:200], a=a, b=b, for_a=wins, for_b=losses, comments=comments)
            found.append(names)
    return sorted(found, key=lambda each: (-min(each["for_a"], each["for_b"]), each["item"]))[:most]
