"""Whether a resumed run was fed what the uninterrupted one was, by the digests of the rows."""

from collections import Counter

from distft.run import RunFolder
from distft.verify_resume.finding import EQUAL, Finding
from distft.verify_resume.traces import Fed, read_fed


def compare_rows(straight: RunFolder, resumed: RunFolder, *, same_layout: bool) -> Finding:
    """Holds every attempt's micro-batches against the straight run's; on another layout the rows of every step."""
    wanted = read_fed(straight)[1]
    attempts = read_fed(resumed)
    twice = sum(map(_count, attempts.values())) - _count(wanted)
    compared = f"{_count(wanted)} in {len(_per_step(wanted))} steps, {twice} of them again after a kill"
    differ = _differ if same_layout else _differ_by_step
    found = [why for attempt, fed in sorted(attempts.items()) if (why := differ(wanted, fed, attempt))]
    unread = _per_step(wanted).keys() - {step for fed in attempts.values() for step in _per_step(fed)}
    found += [f"step {min(unread)}: nothing was read"] if unread else []
    verdict = EQUAL if same_layout else "the same in every step"
    return Finding("rows read", compared, found[0] if found else verdict, not found)


def _differ(wanted: Fed, fed: Fed, attempt: int) -> str | None:
    for step, rank, micro in sorted(fed):
        if fed[step, rank, micro] != wanted.get((step, rank, micro)):
            return f"step {step}: attempt {attempt} read other rows in micro-batch {micro} on rank {rank}"
    return None


def _differ_by_step(wanted: Fed, fed: Fed, attempt: int) -> str | None:
    """A step in which the attempt was killed may lack rows; none may have another row, or one twice."""
    steps, whole = _per_step(fed), _per_step(wanted)
    for step, rows in sorted(steps.items()):
        foreign = rows - whole.get(step, Counter())
        if foreign or (step < max(steps) and rows != whole[step]):
            return f"step {step}: attempt {attempt} read {len(foreign)} other rows"
    return None


def _per_step(fed: Fed) -> dict[int, Counter[str]]:
    steps: dict[int, Counter[str]] = {}
    for (step, _, _), rows in fed.items():
        steps.setdefault(step, Counter()).update(rows)
    return steps


def _count(fed: Fed) -> int:
    return sum(map(len, fed.values()))
