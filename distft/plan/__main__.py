"""`distft plan [-m] [OVERRIDES] [hardware=h100]`: steps, memory, time and cost of a run or a sweep, before it.

`distft plan calibrate out=FILE` measures this machine for `hardware=FILE`.
"""

import subprocess
import sys
from dataclasses import asdict
from typing import Any

from rich.console import Console

from distft.config import Config, ConfigError, command, compose, help_text
from distft.config.command import JSON, keywords
from distft.config.errors import likeness
from distft.config.overrides import MULTIRUN
from distft.machines import is_positive, num_accelerators
from distft.paths import absolute
from distft.plan import make_plan
from distft.plan.estimate import estimate, has_accelerators, search, traced
from distft.plan.hardware import Hardware, find_hardware, memory_gib
from distft.plan.make import model_notes
from distft.plan.needs import Needs
from distft.plan.show import needs_in_words, print_candidates, show
from distft.plan.step import compute_bytes
from distft.run import Plan, json_text, write_json

_WIDTH = 200  # of a table in a file
OWN = {
    "memory_gib": "memory of a device in GiB; what does not fit is marked; default: of the hardware",
    "hardware": "a device by name (h100, a100, mi300x, ...), or FILE of `distft plan calibrate`: adds time and cost",
    "exact": "true: activations traced from the model's own code, without its weights (seconds to a minute)",
    "search": "true: the settings that fit and give the same result, the fastest first; needs memory_gib or hardware",
    "out": "file that the plan is written to, as JSON",
}


def main(argv: list[str]) -> int:
    """Returns 0 with the plan printed, and written to `out` where it is given; for a sweep, those of each job."""
    if argv[:1] == ["calibrate"]:
        return calibrate(argv[1:])
    as_json, argv = JSON in argv, [text for text in argv if text != JSON]
    mine = [text for text in argv if _is_own(text.partition("=")[0])]
    own, overrides = keywords(mine, OWN, required=()), [text for text in argv if text not in (*mine, *MULTIRUN)]
    hardware = find_hardware(own["hardware"]) if "hardware" in own else None
    memory = memory_gib(own.get("memory_gib")) or (hardware.memory_gib if hardware else None)
    exact, searches = (is_true(key, own.get(key)) for key in ("exact", "search"))
    if searches and memory is None:
        raise ConfigError(["search=true: of which memory? Try: hardware=h100, or memory_gib=80"])
    if set(argv) & set(MULTIRUN):
        if exact or searches:
            raise ConfigError(["exact=true and search=true are for one run. Try: without -m"])
        found = plan_jobs(overrides, memory, is_quiet=as_json)
    else:
        config = compose(overrides)
        on = has_accelerators(config, hardware)
        plan = make_plan(config, accelerators=on)
        plan = traced(overrides, plan, compute_bytes(config, on)) if exact and not plan.is_hosted else plan
        needs = estimate(config, plan, hardware)
        found = asdict(plan) | asdict(needs)
        candidates = search(config, plan, memory, hardware) if searches and memory else []
        if searches:
            found["search"] = [asdict(each) | {"overrides": each.overrides} for each in candidates]
        if not as_json:
            print_plan(plan, config, memory, needs, hardware)
        if searches and not as_json:
            print_candidates(candidates, memory or 0.0, Console())
    if as_json:
        print(json_text(found, indent=2))
    if "out" in own:
        write_json(absolute(own["out"]), found)
    return 0


def plan_jobs(overrides: list[str], memory: float | None, *, is_quiet: bool) -> dict[str, Any]:
    """Returns the plan of each job of a sweep, and prints them as a table."""
    from distft.sweep.multirun import plan_sweep, planned_table  # Hydra's sweepers are slow to import

    title, planned = plan_sweep(overrides)
    console = Console()
    console.width = console.width if console.is_terminal else _WIDTH
    if not is_quiet:
        console.print(planned_table(title, planned, memory))
    return {name: asdict(plan) for name, (_, plan) in planned.items()}


def calibrate(argv: list[str]) -> int:
    """Measures this machine in processes with torch, and writes it to `out`; returns their exit code."""
    known = {"out": "YAML file to write", "processes": "that share this machine; default: one per accelerator, else 1"}
    own = keywords(argv, known, required=("out",))
    count = own.get("processes", str(num_accelerators() or 1))
    if not is_positive(count):
        raise ConfigError([f"processes={count} is not a whole number of at least 1. Try: processes=2"])
    file = absolute(own["out"])
    file.parent.mkdir(parents=True, exist_ok=True)
    code = subprocess.run([sys.executable, "-m", "distft.calibration", str(file), count], check=False).returncode
    if code == 0:
        print(file.read_text().rstrip())
    return code


def is_true(key: str, value: str | None) -> bool:
    if value not in (None, "true", "false"):
        raise ConfigError([f"{key}={value} is not true or false. Try: {key}=true"])
    return value == "true"


def print_plan(plan: Plan, config: Config, memory: float | None, needs: Needs, hardware: Hardware | None) -> None:
    console = Console()
    show(plan, config, memory, console)
    for line in needs_in_words(plan, needs, hardware):
        console.print(line, soft_wrap=True, markup=False)
    for line in model_notes(config):
        console.print(line, style="yellow", soft_wrap=True, markup=False)


def _is_own(key: str) -> bool:
    """Returns whether a key is one of this command's own, allowing for a typing error."""
    return key in OWN or (len(key) > 4 and "." not in key and max(likeness(key, own) for own in OWN) >= 0.7)


if __name__ == "__main__":
    own_keys = [(" or ".join(MULTIRUN), "the plan of each job of a sweep"), *OWN.items(), (JSON, "the plan as JSON")]
    command(main, help=help_text("plan", own_keys))
