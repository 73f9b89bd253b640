"""`distft advise data=FILE hardware=h100 [OVERRIDES] [--json]`: which models and methods fit, and at what cost.

Each model of conf/model is planned with full fine-tuning, LoRA and QLoRA, under the strategy, activation checkpointing
and micro-batch that run it fastest within the memory. Quality is not estimated: of those that fit, evaluate the untuned
ones first (`distft evaluate ... at=base`).
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from distft.config import ConfigError, command, compose, help_text
from distft.config.command import JSON, keywords
from distft.config.errors import did_you_mean, nearest
from distft.machines import is_positive
from distft.paths import absolute, conf_dir
from distft.plan import make_plan
from distft.plan.estimate import Candidate, has_accelerators, least, search
from distft.plan.hardware import Hardware, find_hardware, memory_gib
from distft.plan.needs import GIB
from distft.plan.show import duration
from distft.run import json_text

OWN = {
    "data": "the training rows: a file, a folder or a hub id (data.train), or a word of conf/data",
    "task": "what is trained (model.task); default: causal_lm",
    "memory_gib": "memory of a device in GiB; default: of the hardware",
    "hardware": "a device by name (h100, a100, ...), or FILE of `distft plan calibrate`: adds hours and price",
    "processes": "devices that train together on one machine; default: 1",
    "price_per_hour": "of a device, in any currency",
}
METHODS = ("full", "lora", "qlora")
LICENCES = {  # by the names that the models' pages use; Llama and Gemma have terms of their own
    "smollm2_135m": "Apache 2.0",
    "llama3_8b": "Llama 3.1",
    "llama3_70b": "Llama 3.1",
    "qwen3_8b": "Apache 2.0",
    "mistral_7b": "Apache 2.0",
    "gemma3_4b": "Gemma",
    "gpt2": "MIT",
}


@dataclass(frozen=True)
class Advice:
    """One model and method."""

    model: str
    method: str
    fits: bool
    peak_gib: float  # where nothing fits: the least that any settings need
    host_gib: float  # of the host's memory, for a process whose optimizer is offloaded; not checked
    hours: float | None  # of the whole run, by the clock; null with offload, or without hardware
    price: float | None
    licence: str
    source: str
    parameters: int
    overrides: list[str] = field(default_factory=list)


def main(argv: list[str]) -> int:
    """Returns 0 with the models and methods printed, those that fit first."""
    as_json, argv = JSON in argv, [text for text in argv if text != JSON]
    mine = [text for text in argv if _is_own(text.partition("=")[0])]
    own, overrides = keywords(mine, OWN, required=("data",)), [text for text in argv if text not in mine]
    hardware = with_price(own)
    memory = memory_gib(own.get("memory_gib")) or (hardware.memory_gib if hardware else None)
    if memory is None:
        raise ConfigError(["memory_gib is missing: of which memory? Try: hardware=h100, or memory_gib=24"])
    count = own.get("processes", "1")
    if not is_positive(count):
        raise ConfigError([f"processes={count} is not a whole number of at least 1. Try: processes=8"])
    given = [rows_of(own["data"]), f"model.task={own.get('task', 'causal_lm')}", f"launcher.processes_per_node={count}"]
    found = sorted(advise([*given, *overrides], memory, hardware), key=rank)
    if as_json:
        print(json_text([asdict(each) for each in found], indent=2))
    else:
        print_advice(found, memory, int(count), [*given, *overrides])
    return 0


def advise(overrides: Sequence[str], memory: float, hardware: Hardware | None) -> Iterator[Advice]:
    """Yields each model with each method. memory: GiB of a device."""
    for word in sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml")):
        for method in METHODS:
            config = compose([f"model={word}", f"tuning={method}", *overrides])
            plan = make_plan(config, accelerators=has_accelerators(config, hardware))
            fitting = search(config, plan, memory, hardware)
            best: Candidate = fitting[0] if fitting else least(config, plan, hardware)
            seconds = best.seconds if fitting else None
            price = hardware.price_per_hour if hardware else None
            yield Advice(
                model=word,
                method=method,
                fits=bool(fitting),
                peak_gib=round(best.peak / GIB, 2),
                host_gib=round(best.host / GIB, 2),
                hours=None if seconds is None else seconds / 3600,
                price=None if seconds is None or price is None else seconds * plan.world / 3600 * price,
                licence=LICENCES.get(word, "see its page"),
                source=config.model.path or "",
                parameters=plan.parameters,
                overrides=[f"model={word}", f"tuning={method}", *best.overrides] if fitting else [],
            )


def with_price(own: dict[str, str]) -> Hardware | None:
    """Returns the requested hardware, with the price that was typed; ConfigError for a price without hardware."""
    hardware = find_hardware(own["hardware"]) if "hardware" in own else None
    typed = own.get("price_per_hour")
    if typed is None:
        return hardware
    try:
        price = float(typed)
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise ConfigError([f"price_per_hour={typed} is not a number of at least 0. Try: price_per_hour=2.5"])
    if hardware is None:
        raise ConfigError([f"price_per_hour={typed}: hours are not known without a device. Try: hardware=h100"])
    return hardware.model_copy(update={"price_per_hour": price})


def rows_of(data: str) -> str:
    """Returns the override for `data=`: a word of conf/data, else data.train."""
    words = sorted(path.stem for path in (conf_dir() / "data").glob("*.yaml"))
    if data in words:
        return f"data={data}"
    if not absolute(data).exists() and not Path(data).suffix and "/" not in data:
        hint = did_you_mean(nearest(data, words)) or f" Allowed: a file, a folder, a hub id, {', '.join(words)}"
        raise ConfigError([f"data={data}: is not a file, nor a word of conf/data.{hint}"])
    return f"data.train={data}"


def rank(advice: Advice) -> tuple[bool, bool, float, float]:
    """Those that fit first, without offload before with it, and of these the largest models."""
    return (not advice.fits, advice.host_gib > 0, -advice.parameters, advice.hours or advice.peak_gib)


def print_advice(found: Sequence[Advice], memory: float, devices: int, given: Sequence[str]) -> None:
    console = Console()
    title = f"{memory:g} GiB a device, {devices} device{'s' * (devices > 1)}"
    table = Table(title=title, title_justify="left", padding=0)
    for heading in ("model", "method", "fits", "peak GiB", "time", "price", "licence"):
        table.add_column(heading, justify="right" if heading in ("peak GiB", "time", "price") else "left")
    for each in found:
        time = "" if each.hours is None else duration(3600 * each.hours)
        price = "" if each.price is None else f"{each.price:.2f}"
        fits = "no" if not each.fits else f"offload, {each.host_gib:.0f} GiB" if each.host_gib else "yes"
        table.add_row(each.model, each.method, fits, f"{each.peak_gib:.1f}", time, price, each.licence)
    console.print(table)
    if found and found[0].fits:
        best = shlex.join([*given, *found[0].overrides])
        console.print(f"The first as a run: distft launch {best}", soft_wrap=True, markup=False)
    if any(each.host_gib for each in found):
        console.print("offload: with the optimizer in host memory, so many GiB a process; its time is not estimated.")
    console.print("Peak and time are estimates (distft plan); quality is not estimated.", style="dim")


def _is_own(key: str) -> bool:
    return (
        "." not in key and key not in ("model", "tuning", "strategy") and (key in OWN or nearest(key, OWN) is not None)
    )


if __name__ == "__main__":
    command(main, help=help_text("advise", [*OWN.items(), (JSON, "the rows as JSON")]))
