"""Summarises the result of a sweep in sentences, with its uncertainty and caveats."""

from collections.abc import Mapping, Sequence

from distft.report.sweep.jobs import Job, Sweep, metric_text, number_text, value_text
from distft.report.sweep.settings import Difference, Interval, Setting, compare, settings_of
from distft.run import FINISHED

UNFINISHED = ("pending", "running", "preempted")


def headline(sweep: Sweep, ranking: Sequence[Setting]) -> list[str]:
    """Returns one sentence about the best setting with its uncertainty, or the reason why there is none.

    Texts and settings alternate, starting with a text, so that the page can format the settings.
    """
    if not ranking:
        return [nothing_ranked(sweep)]
    best = ranking[0]
    name, superlative = sweep.selection.name, sweep.selection.superlative
    others = f"has the {superlative} {name} of {len(ranking)} settings" if ranking[1:] else f"has the {name}"
    measured = f" {others}{':' if ranking[1:] else ''} {metric_text(best.mean)}"
    if best.interval:
        measured += f", the mean of {best.n} seeds, 95 % interval {interval_text(best.interval)}"
    else:
        measured += ", from one seed, so without an interval"
    if len(ranking) == 1:
        alone = "there is no other" if len(settings_of(sweep)) == 1 else "no other has finished with an evaluation"
        return ["", setting_text(best.values), f"{measured}; {alone}."]
    return [
        "",
        setting_text(best.values),
        f"{measured}; {next_best(best, ranking[1])[0]}",
        *next_best(best, ranking[1])[1:],
    ]


def next_best(best: Setting, second: Setting) -> list[str]:
    """Returns whether the second setting, named by its differing values, differs significantly from the best."""
    difference = compare(best, second)
    worse = best.best.selection.worse
    name = setting_text({key: value for key, value in second.values.items() if value != best.values[key]})
    mean, interval = decimals(difference)
    if not interval:
        return ["the next, ", name, f", is {mean} {worse}; whether that is chance is unknown."]
    verdict = "differs significantly" if difference.is_significant else "does not differ significantly"
    return [
        f"it {verdict} from the next, ",
        name,
        f", which is {mean} {worse} (95 % interval {interval}, {difference.how}).",
    ]


def nothing_ranked(sweep: Sweep) -> str:
    """Returns why no setting is ranked."""
    states = {job.state for job in sweep.jobs}
    if not sweep.jobs:
        return "Nothing is ranked: the sweep has no runs."
    if states == {"failed"}:
        return "Nothing is ranked: every run failed." if len(sweep.jobs) > 1 else "Nothing is ranked: the run failed."
    if states & set(FINISHED):
        return "Nothing is ranked: the finished runs evaluated no held-out rows (data.eval)."
    if states & set(UNFINISHED):
        return "Nothing is ranked yet: no run has finished."
    return "Nothing is ranked: no run finished."


def doubts(sweep: Sweep, ranking: Sequence[Setting]) -> list[str]:
    """Returns the caveats about the ranking, one sentence each."""
    counted = [job for setting in ranking for job in setting.jobs if job.is_ranked]
    waiting = sum(job.state in UNFINISHED for job in sweep.jobs)
    tokens = sorted({job.eval_tokens for job in counted if job.eval_tokens is not None})
    caveats = []
    if waiting and counted:
        caveats.append(f"{waiting} of {len(sweep.jobs)} runs have not finished, so the order may change.")
    if len(tokens) > 1:
        caveats.append(
            f"The runs were measured on {tokens[0]:,} to {tokens[-1]:,} held-out target tokens, so on different "
            "rows or with different tokenizers: their results may not be comparable."
        )
    if counted and ranking[0].best.objective_step == 0:
        caveats.append("The best run was best before its first step: training did not improve it.")
    if len({setting.n for setting in ranking}) > 1:
        caveats.append("The settings have different numbers of seeds.")
    if len(ranking) > 1:
        caveats.append(
            f"The {sweep.selection.superlative} of several results is biased, and each run is ranked by its best "
            "evaluation: evaluate the chosen setting again on rows that were not used for the choice."
        )
    return caveats


def best_elsewhere(ranking: Sequence[Setting]) -> Job | None:
    """Returns the best single run when it does not belong to the best setting."""
    found = min((setting.best for setting in ranking), key=lambda job: job.cost)
    return None if found is ranking[0].best else found


def counts(sweep: Sweep) -> list[tuple[str, int]]:
    """Returns the number of runs in each state, finished states first."""
    states = [*FINISHED, "running", "pending", "preempted", "failed"]
    return [(state, n) for state in states if (n := sum(job.state == state for job in sweep.jobs))]


def setting_text(values: Mapping[str, object]) -> str:
    return " ".join(f"{key}={value_text(value)}" for key, value in values.items()) or "The one setting"


def interval_text(interval: Interval) -> str:
    return f"{metric_text(interval.low)} to {metric_text(interval.high)}"


def difference_text(difference: Difference) -> str:
    """Returns `0.0123 (0.0011 to 0.0235)`; without an interval `0.0123`."""
    mean, interval = decimals(difference)
    return f"{mean} ({interval})" if interval else mean


def decimals(difference: Difference) -> tuple[str, str]:
    """Returns a difference and its interval with equal decimals; an empty text without an interval."""
    ends = [difference.interval.low, difference.interval.high] if difference.interval else []
    widest = max(map(abs, [difference.mean, *ends]))
    mean, *ends = (f"{end:.4f}" if widest >= 0.001 or not widest else f"{end:.1e}" for end in [difference.mean, *ends])
    return mean, " to ".join(ends)


def hours_text(hours: float) -> str:
    """Returns process-hours to three digits."""
    return number_text(hours, 3) if hours else "0"
