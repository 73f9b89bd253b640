"""`python -m distft.plan [OVERRIDES] [memory_gib=80] [out=FILE]`: prints what a run will do and need."""

import sys
from dataclasses import asdict

from rich.console import Console

from distft.config import command, compose, help_text
from distft.config.arguments import Argument, take
from distft.paths import absolute
from distft.plan import make_plan
from distft.plan.show import show
from distft.run import write_json

OWN = (
    Argument("memory_gib", float, "memory of a device in GiB; what does not fit is marked"),
    Argument("out", str, "file that the plan is written to, as JSON"),
)


def main(argv: list[str]) -> int:
    own, overrides = take(argv, OWN)
    config = compose(overrides, to_run=False)
    plan = make_plan(config)
    show(plan, config, own["memory_gib"], Console())
    if own["out"]:
        write_json(absolute(own["out"]), asdict(plan))
    return 0


if __name__ == "__main__":
    command(main, sys.argv[1:], help=help_text("plan", [(own.name, own.help) for own in OWN]))
