"""Optuna's points are a function of the seed, their number and the results before them."""

from collections.abc import Callable, Sequence
from math import log10

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from distft.config import ConfigError
from distft.sweep.jobs import named
from distft.sweep.request import Point, parse
from distft.sweep.search import Search

LR = "optimizer.lr=tag(log,interval(1e-6,1))"


class Answers(Launcher):
    """Gives the loss of a point without a run; what it has answered once it does not count again."""

    def __init__(self, loss: Callable[[dict[str, str]], float | None]):
        self.loss = loss
        self.batches: list[list[Point]] = []

    def setup(self, **_: object) -> None:
        pass

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        self.batches.append([tuple(point) for point in job_overrides])
        losses = [self.loss(dict(text.split("=", 1) for text in point)) for point in job_overrides]
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=loss) for loss in losses]


def valley(point: dict[str, str]) -> float:
    """Is lowest, 0, at 1e-3."""
    return abs(log10(float(point["optimizer.lr"])) + 3)


def search(
    swept: list[str],
    loss: Callable[[dict[str, str]], float | None] = valley,
    earlier: Sequence[Point] = (),
    at_once: int = 1,
    **settings: int,
) -> list[Point]:
    """Returns all points of a search, those of an earlier start first."""
    answers, sweeper = Answers(loss), Search(**settings)
    sweeper.points(parse(swept), named(earlier))
    sweeper.begin(answers, named(earlier), at_once)
    losses = sweeper.sweep(swept)
    points = [point for batch in answers.batches for point in batch]
    assert len(losses) == len(points) and all(len(batch) <= max(at_once, len(earlier)) for batch in answers.batches)
    return points


@pytest.mark.slow
def test_a_search_gets_closer_than_its_random_points():
    losses = [valley({"optimizer.lr": point[0].partition("=")[2]}) for point in search([LR], trials=30)]
    assert min(losses) < 0.2 and sum(losses[10:]) / 20 < 0.7 * sum(losses[:10]) / 10


def test_points_are_a_function_of_the_seed():
    assert search([LR], trials=8) == search([LR], trials=8) != search([LR], trials=8, seed=1)


@pytest.mark.slow
def test_an_interrupted_search_gives_the_same_points():
    whole = search([LR, "seed=choice(0,1)"], trials=12)
    assert search([LR, "seed=choice(0,1)"], earlier=whole[:7], trials=12) == whole


def test_more_trials_continue_a_search():
    first = search([LR], trials=4)
    assert search([LR], earlier=first, trials=6)[:4] == first


def test_jobs_at_once_are_sampled_as_a_batch():
    points = search([LR], trials=7, at_once=3)
    assert len(set(points)) == 7


@pytest.mark.slow
def test_no_point_repeats_and_an_exhausted_space_ends_the_search():
    points = search(["seed=range(0,3)", "x=choice(a,b)"], lambda point: float(point["seed"]), trials=20)
    assert len(points) == len(set(points)) == 6


def test_failed_jobs_add_no_result_and_do_not_end_the_search():
    points = search([LR], lambda point: None if valley(point) > 1 else valley(point), trials=12)
    assert len(points) == 12


def test_numbers_follow_the_hydra_grammar():
    swept = ["a=int(interval(1,4))", "b=range(2,11,2)", "c=interval(0.5,0.6)", "d=tag(log,range(1,9))"]
    for point in search(swept, lambda point: float(point["c"]), trials=6):
        values = dict(text.split("=", 1) for text in point)
        assert int(values["a"]) in range(1, 5) and int(values["b"]) in (2, 4, 6, 8, 10)
        assert 0.5 <= float(values["c"]) <= 0.6 and len(values["c"]) <= 6 and int(values["d"]) in range(1, 9)


def test_an_empty_interval_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"optimizer.lr=tag\(log,interval\(0,1\)\)"):
        search(["optimizer.lr=tag(log,interval(0,1))"], trials=2)


def test_a_search_whose_folder_lacks_a_job_is_refused():
    sweeper, points = Search(), search([LR], trials=3)
    earlier = {name: point for name, point in named(points).items() if not name.startswith("001")}
    with pytest.raises(ConfigError, match="001"):
        sweeper.points(parse([LR]), earlier)
