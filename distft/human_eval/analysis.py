"""The contents of analysis.json and exclusions.json, by their keys in the order of the files."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from distft.human_eval.agreement import Alpha
from distft.human_eval.intervals import Interval


class Rate(TypedDict):
    """A share of votes with its 95% interval; None: no interval with one rater and one prompt."""

    value: float
    low: float | None
    high: float | None
    stderr: NotRequired[float]
    method: NotRequired[str]
    n: NotRequired[int]
    of: NotRequired[str]  # the system whose win rate it is


class ShortRate(TypedDict):
    """A share of votes without an interval."""

    value: float


class Counts(TypedDict):
    """How many raters, items and votes a study has; `used` to `excluded` are of the main votes."""

    raters: int
    items: int
    planned_votes: int
    votes: int
    used: int
    skipped: int
    excluded: int
    undone: int


class ExcludedRater(TypedDict):
    rater: str
    reason: str


class ExclusionRules(TypedDict):
    """Share of attention checks that a rater passes, and seconds that a vote takes, at least."""

    min_attention: float
    min_seconds: float


class Exclusions(TypedDict):
    rules: ExclusionRules
    raters: list[ExcludedRater]
    fast_votes: int


class Look(TypedDict):
    """One analysis of a study: each set of votes is counted once."""

    votes: int
    complete: bool
    votes_sha256: str


class Bootstrap(TypedDict):
    by_rater: Rate | None
    by_prompt: Rate | None
    by_both: Rate | None


class PValues(TypedDict):
    sign_test: float
    permutation: float


class Comparison(TypedDict):
    """The votes on systems a and b. p: of the permutation test; p_holm: adjusted for the number of comparisons."""

    a: str
    b: str
    votes: int
    raters: int
    prompts: int
    wins_a: int
    wins_b: int
    ties: int
    both_bad: int
    win_rate: Rate
    bootstrap: Bootstrap
    of_decided: Rate | None
    length_controlled: float | None
    tests: PValues
    p: float
    p_holm: float


class AllVotes(TypedDict):
    """The win rate of a over b with the excluded votes too."""

    a: str
    b: str
    votes: int
    win_rate: Rate | ShortRate


class Davidson(TypedDict):
    strengths: dict[str, float]
    tie_parameter: float


class BradleyTerry(TypedDict):
    """Strengths by system; None where no finite maximum exists."""

    unit: str
    ties_as_half: dict[str, Mapping[str, object]] | None
    davidson: Davidson | None


class Agreement(TypedDict):
    krippendorff_alpha: "AlphaEstimate"
    mean_kappa: float | None
    rater_pairs: int


class AlphaEstimate(TypedDict):
    """Krippendorff's alpha with its 95% interval; None without variation."""

    value: float | None
    low: float | None
    high: float | None
    items: int
    votes: int


class Biases(TypedDict):
    first_answer: Rate | None
    longer_answer: Rate | None


class Slice(TypedDict):
    """The win rate of a over b within one value of a slice; few: under 30 votes."""

    slice: str
    value: str
    a: str
    b: str
    votes: int
    few: bool
    win_rate: Rate


class Disagreement(TypedDict):
    """An item on which raters preferred different systems."""

    item: str
    prompt: str
    a: str
    b: str
    for_a: int
    for_b: int
    comments: list[str]


class Mean(TypedDict):
    """The mean rating of a system; the interval is missing with one rater and one prompt."""

    criterion: str
    system: str
    votes: int
    value: float
    low: NotRequired[float]
    high: NotRequired[float]
    stderr: NotRequired[float]
    method: NotRequired[str]


class MeanDifference(TypedDict):
    """The mean rating of a minus that of b, with its 95% interval."""

    criterion: str
    a: str
    b: str
    value: float
    low: float
    high: float
    stderr: float
    method: str


class Sentence(TypedDict):
    text: str


class JudgeRun(TypedDict, total=False):
    """A judge that compared the answers now: what its verdicts depend on and cost."""

    settings: dict[str, str]
    unreadable: int
    cost: Mapping[str, object]


class JudgeAgreement(TypedDict):
    """How often a judge and a rater preferred the same system, with the 95% interval. The first three: JudgeRun."""

    settings: NotRequired[dict[str, str]]
    unreadable: NotRequired[int]
    cost: NotRequired[Mapping[str, object]]
    votes: int
    agreement: float
    low: float
    high: float
    kappa: float | None


class Analysis(TypedDict):
    """analysis.json. Filled step by step, so what follows `seconds_per_vote` is absent at first."""

    study: str
    title: str
    type: str
    systems: list[str]
    counts: Counts
    exclusions: Exclusions
    seconds_per_vote: float | None
    # of pairwise votes that count
    win_rate: NotRequired[Rate]  # of two systems
    comparisons: NotRequired[list[Comparison]]
    bradley_terry: NotRequired[BradleyTerry]
    without_exclusions: NotRequired[list[AllVotes]]
    agreement: NotRequired[Agreement]
    biases: NotRequired[Biases]
    slices: NotRequired[list[Slice]]
    reasons: NotRequired[dict[str, dict[str, int]]]  # system -> reason -> votes
    disagreements: NotRequired[list[Disagreement]]
    # of ratings that count
    means: NotRequired[list[Mean]]
    differences: NotRequired[list[MeanDifference]]
    ratings: NotRequired[list[Sentence]]
    agreement_by_criterion: NotRequired[dict[str, AlphaEstimate]]
    # of every study
    attention: NotRequired[Rate | None]
    self_agreement: NotRequired[dict[str, Rate | None]]
    votes_sha256: NotRequired[str]
    items_sha256: NotRequired[str]
    seed: NotRequired[int]
    answers_sha256: NotRequired[dict[str, str]]
    complete: NotRequired[bool]
    looks: NotRequired[list[Look]]
    judge: NotRequired[JudgeAgreement]
    conclusions: NotRequired[list[str]]


def rate_of(interval: Interval) -> Rate:
    """Returns an interval as JSON."""
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "stderr": interval.stderr,
        "method": interval.method,
    }


def alpha_json(alpha: Alpha) -> AlphaEstimate:
    """Returns Krippendorff's alpha as JSON."""
    return {
        "value": alpha.value,
        "low": alpha.low,
        "high": alpha.high,
        "items": alpha.items,
        "votes": alpha.votes,
    }
