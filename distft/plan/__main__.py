"""`distft plan [-m] [OVERRIDES] [memory_gib=80] [out=FILE]`: steps, batch sizes and memory of a run or a sweep."""

from dataclasses import asdict

from rich.console import Console

from distft.config import Config, ConfigError, command, compose, help_text
from distft.config.command import JSON, keywords
from distft.config.errors import likeness
from distft.config.overrides import MULTIRUN
from distft.paths import absolute
from distft.plan import make_plan
from distft.plan.make import model_notes
from distft.plan.show import show
from distft.run import Plan, json_text, write_json

_WIDTH = 200  # of a table in a file
OWN = {
    "memory_gib": "memory of a device in GiB; what does not fit is marked",
    "out": "file that the plan is written to, as JSON",
}


def main(argv: list[str]) -> int:
    """Returns 0 with the plan printed, and written to `out` where it is given; for a sweep, those of each job."""
    as_json, argv = JSON in argv, [text for text in argv if text != JSON]
    mine = [text for text in argv if _is_own(text.partition("=")[0])]
    own, overrides = keywords(mine, OWN, required=()), [text for text in argv if text not in (*mine, *MULTIRUN)]
    memory = memory_gib(own.get("memory_gib"))
    if set(argv) & set(MULTIRUN):
        from distft.sweep.multirun import plan_sweep, planned_table  # Hydra's sweepers are slow to import

        title, planned = plan_sweep(overrides)
        found = {name: asdict(plan) for name, (_, plan) in planned.items()}
        console = Console()
        console.width = console.width if console.is_terminal else _WIDTH
        if not as_json:
            console.print(planned_table(title, planned, memory))
    else:
        config = compose(overrides)
        plan = make_plan(config)
        found = asdict(plan)
        if not as_json:
            print_plan(plan, config, memory)
    if as_json:
        print(json_text(found, indent=2))
    if "out" in own:
        write_json(absolute(own["out"]), found)
    return 0


def print_plan(plan: Plan, config: Config, memory: float | None) -> None:
    console = Console()
    show(plan, config, memory, console)
    for line in model_notes(config):
        console.print(line, style="yellow", soft_wrap=True, markup=False)


def _is_own(key: str) -> bool:
    """Returns whether a key is one of this command's own, allowing for a typing error."""
    return key in OWN or (len(key) > 4 and likeness(key, "memory_gib") >= 0.7)


def memory_gib(value: str | None) -> float | None:
    try:
        number = None if value is None else float(value)
    except ValueError:
        number = 0.0
    if number is None or 0 < number < float("inf"):
        return number
    raise ConfigError([f"memory_gib={value} is not a number above 0. Try: memory_gib=80"])


if __name__ == "__main__":
    own_keys = [(" or ".join(MULTIRUN), "the plan of each job of a sweep"), *OWN.items(), (JSON, "the plan as JSON")]
    command(main, help=help_text("plan", own_keys))
