"""Plans every point of a sweep, as distft.plan does a run: `plan_points.py -m OVERRIDES`, in place of a launch.

Of a range or an interval the ends are its points. The jobs are composed from what distft.sweep itself makes of the
command line.
"""

from distft.config import command, compose
from distft.launch import MULTIRUN
from distft.plan import make_plan
from distft.sweep.jobs import words
from distft.sweep.request import corners, parse, read_request

MOST = 1000


def main(arguments: list[str]) -> int:
    """Returns 0 with a line for each point; ConfigError for the first that is wrong, or a sweep that is."""
    request = read_request([each for each in arguments if each not in MULTIRUN])
    points = corners(parse(request.swept), MOST)
    compose((*request.shared, *request.own, *points[0]), sweep=True)
    for point in points:
        plan = make_plan(compose(request.of_job(point), sweep=True))
        print(f"{words(point)}: {plan.steps} steps")
    return 0


if __name__ == "__main__":
    command(main)
