"""`distft human_eval plan`: comparisons that a difference needs, with hours and cost.

The estimate is the mean score of votes: win 1, tie 0.5, loss 0. With overlap k and m votes per rater its variance is
that of independent votes times the design effect 1 + (k - 1) r_prompt + (m - 1) r_rater, with r the share of a vote's
variance that the prompt, or the rater, explains. The test is that of `analyze`: Student's t of min(raters, prompts) - 1
degrees of freedom. The estimate of the variance has other degrees (Satterthwaite 1946): raters and prompts contribute.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log, sqrt

from scipy import stats

from distft.config.errors import ConfigError
from distft.human_eval.arguments import Arguments

KEYS = {
    "effect": "the win rate to detect, ties as half a win, such as 0.6",
    "power": "probability of detecting it (default 0.8)",
    "level": "significance level of the two-sided test (default 0.05)",
    "ties": "share of ties, both bad included (default 0.2)",
    "raters": "number of raters (default 20)",
    "overlap": "raters per item (default 2)",
    "prompt_correlation": "share of a vote's variance that its prompt explains (default 0.1)",
    "rater_correlation": "share that its rater explains (default 0.01)",
    "seconds": "per vote (default 40)",
    "hourly": "pay of a rater per hour (default 0)",
}
CLAIM = "plan: prints how many comparisons a difference needs, with the hours and the cost of it."
LARGEST = 10_000_000  # votes


@dataclass(frozen=True)
class Plan:
    """A study to be planned: what it is to detect, and how votes are correlated."""

    effect: float
    power: float = 0.8
    level: float = 0.05
    ties: float = 0.2
    raters: int = 20
    overlap: int = 2
    prompt_correlation: float = 0.1
    rater_correlation: float = 0.01


def vote_variance(effect: float, ties: float) -> float:
    """Returns the variance of one vote's score: wins count 1, ties 0.5."""
    return effect - ties / 4 - effect**2


def power_of(plan: Plan, votes: int) -> float:
    """Returns the probability that the interval of so many votes lies on the effect's side of 0.5."""
    prompts = max(2, votes // plan.overlap)
    by_rater = 1 + max(0.0, votes / plan.raters - 1) * plan.rater_correlation
    by_prompt = 1 + (plan.overlap - 1) * plan.prompt_correlation
    spread = by_rater + by_prompt - 1  # the parts that `analyze` estimates; 1: of independent votes
    freedom = spread**2 / (by_rater**2 / (plan.raters - 1) + by_prompt**2 / (prompts - 1))
    critical = stats.t.ppf(1 - plan.level / 2, min(plan.raters, prompts) - 1)
    slope = plan.effect * (1 - plan.effect)  # the interval is on the logit scale
    stderr = sqrt(vote_variance(plan.effect, plan.ties) * spread / votes)
    return float(stats.nct.sf(critical, freedom, abs(log(plan.effect / (1 - plan.effect))) * slope / stderr))


def independent_votes(plan: Plan) -> int:
    """Returns the votes that a test of independent votes would need, in closed form: a lower limit."""
    z_level, z_power = stats.norm.ppf(1 - plan.level / 2), stats.norm.ppf(plan.power)
    spread = z_level * sqrt(vote_variance(0.5, plan.ties)) + z_power * sqrt(vote_variance(plan.effect, plan.ties))
    return ceil((spread / (plan.effect - 0.5)) ** 2)


def votes_needed(plan: Plan) -> int | None:
    """Returns the smallest number of votes with the wanted power; None when no number is enough."""
    low, high = 1, 64
    while power_of(plan, high) < plan.power:
        low, high = high, high * 2
        if high > LARGEST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(plan, middle) >= plan.power else (middle, high)
    return high


def plan(given: Mapping[str, str]) -> int:
    """Prints the plan and returns 0; ConfigError for numbers that cannot be."""
    read = Arguments(given)
    asked = Plan(
        effect=read.number("effect", 0.6, 0, 1),
        power=read.number("power", 0.8, 0.05, 0.999),
        level=read.number("level", 0.05, 1e-6, 0.5),
        ties=read.number("ties", 0.2, 0, 0.99),
        raters=read.integer("raters", 20, 2, 100_000),
        overlap=read.integer("overlap", 2, 1, 1000),
        prompt_correlation=read.number("prompt_correlation", 0.1, 0, 1),
        rater_correlation=read.number("rater_correlation", 0.01, 0, 1),
    )
    seconds, hourly = read.number("seconds", 40, 0.1, 86400), read.number("hourly", 0, 0, 1e6)
    errors = read.errors
    if not errors and abs(asked.effect - 0.5) < 1e-6:
        errors.append(f"effect={given['effect']}: 0.5 is no difference. Try: effect=0.55")
    elif not errors and not asked.ties / 2 <= asked.effect <= 1 - asked.ties / 2:
        limit = f"{asked.ties / 2:g} to {1 - asked.ties / 2:g}"
        errors.append(f"effect={given['effect']}: with ties={asked.ties:g} a win rate is from {limit}")
    if not errors and asked.overlap > asked.raters:
        errors.append(f"overlap={asked.overlap}: is more than the {asked.raters} raters. Try: overlap={asked.raters}")
    if errors:
        raise ConfigError(errors)
    print(text_of(asked, votes_needed(asked), seconds, hourly))
    return 0


def text_of(asked: Plan, votes: int | None, seconds: float, hourly: float) -> str:
    """Returns the plan as text."""
    about = f"a win rate of {asked.effect:.1%} with a power of {asked.power:.0%} (ties {asked.ties:.0%})"
    if votes is None:
        return (
            f"{about}: no number of votes is enough with {asked.raters} raters, since raters differ "
            f"(rater_correlation={asked.rater_correlation:g}). Try: raters={asked.raters * 4}"
        )
    hours = votes * seconds / 3600
    half, twice = power_of(asked, max(2, votes // 2)), power_of(asked, votes * 2)
    prompts = ceil(votes / asked.overlap)
    lines = [
        f"to detect {about}:",
        f"  comparisons        {votes:,} votes: {prompts:,} prompts, each for {asked.overlap} of {asked.raters} raters",
        f"  per rater          {ceil(votes / asked.raters):,} votes, {hours / asked.raters:.1f} hours",
        f"  hours              {hours:,.1f} at {seconds:g} s per vote",
        f"  cost               {hours * hourly:,.2f} at {hourly:g} per hour"
        if hourly
        else "  cost               with hourly=",
        f"  power              {power_of(asked, votes):.1%}; with half the votes {half:.1%}, with twice {twice:.1%}",
        f"  if independent     {independent_votes(asked):,} votes: without what raters and prompts have in common",
        "Fix this number before the study begins: a test after every few votes finds differences that are not there.",
    ]
    return "\n".join(lines)
