"""Prints the plan: batch arithmetic, steps, and the memory of every strategy."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from distft.config import Config
from distft.config.schema import Train
from distft.plan.estimate import Candidate
from distft.plan.hardware import Hardware
from distft.plan.needs import Needs
from distft.run import Plan

UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}
COUNTED = (
    "gathered: the peak that a step adds for communication: weights in the compute dtype, buckets, gradients of "
    "embeddings and head. peak: the sum on the device{}. Not included: what the libraries take (about 1 GiB on a GPU) "
    "and fragmentation."
)


def show(plan: Plan, config: Config, memory_gib: float | None, console: Console) -> None:
    """Prints the batch arithmetic and the memory of every strategy, the chosen one marked."""
    for line in config.notes:
        console.print(line, soft_wrap=True, markup=False)
    console.print(arithmetic(plan, config))
    if plan.memory and plan.parameters:
        console.print(memory(plan, config.choices["strategy"], memory_gib))
        counted = plan.memory.get(config.choices["strategy"], {})
        console.print(COUNTED.format(of_forward(plan, counted)), style="dim", soft_wrap=True)
    elif not plan.parameters:
        console.print("The parameters of this architecture are unknown until its model is fetched (distft prepare).")
    else:
        console.print(f"The state of {config.optimizer.target} is unknown: no memory estimate.")


def arithmetic(plan: Plan, config: Config) -> Table:
    about = "about " if plan.estimated else ""
    training = config.train
    tokens = training.global_batch_tokens
    batch = f"at most {tokens:,} tokens" if tokens else f"{training.global_batch_size:,} rows"
    parts = " x ".join(
        (
            at_once(plan),
            _some(plan.world, "process"),
            _some(plan.accumulation, "micro-batch"),
        )
    )
    rows = [
        (
            "model",
            f"{plan.model_name}, {plan.parameters:,} parameters" + " (tiny)" * config.model.tiny,
        ),
        *([("trained", f"{plan.adapters:,} parameters of adapters")] if plan.adapters else []),
        ("processes", f"{plan.world} = {_some(plan.nodes, 'node')} x {plan.processes_per_node}"),
        ("global batch", f"{batch}, about {parts}" if tokens or plan.micro_batch_tokens else f"{batch} = {parts}"),
        (
            "steps",
            f"{about}{plan.steps:,}{what_ends(plan, training)}" if plan.steps else "unknown until the data is here",
        ),
        ("rows", f"{about}{plan.rows:,} to train on, {plan.eval_rows:,} held out" if plan.rows else "unknown"),
        ("epochs", f"{about}{plan.epochs:.3g}" if plan.rows else "unknown"),
        ("tokens", f"{about}{plan.tokens:,}" if plan.tokens else "unknown"),
    ]
    table = Table(title="Plan", title_justify="left", show_header=False, box=None)
    for name, text in rows:
        table.add_row(name, text)
    if plan.estimated:
        table.caption = "about: the data is not prepared yet (python -m distft.prepare)"
    return table


def what_ends(plan: Plan, training: Train) -> str:
    """Returns which of max_steps and epochs ends the run, where both are set; else nothing."""
    steps, epochs = training.max_steps, training.epochs
    if not steps or not epochs or not plan.steps:
        return ""
    pair = (f"train.epochs={epochs:g}", f"train.max_steps={steps}")
    first, other = pair if plan.steps < steps else reversed(pair)
    return f": {first} ends the run before {other}"


def at_once(plan: Plan) -> str:
    """Returns the size of a micro-batch, for the user."""
    if plan.micro_batch_size is None:
        return f"up to {plan.micro_batch_tokens:,} tokens"
    return _some(plan.micro_batch_size, "row")


def _some(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun[-1] in 'sh' else 's'}"


def memory(plan: Plan, chosen: str, memory_gib: float | None) -> Table:
    unit = unit_of(max(map(_total, plan.memory.values())))
    table = Table(title=f"{unit} per process", title_justify="left", padding=0)  # to fit a terminal of 80 columns
    for heading in ("strategy", "parameters", "gradients", "optimizer", "gathered", "peak"):
        table.add_column(heading, justify="left" if heading == "strategy" else "right", no_wrap=True)
    table.add_column(f"{memory_gib:g} GiB" if memory_gib is not None else "", no_wrap=True)
    for name, counted in plan.memory.items():
        parts = ("parameters", "gradients", "optimizer", "gathered", "peak")
        numbers = [f"{counted[part] / UNITS[unit]:.2f}" if part in counted else "" for part in parts]
        style = "bold" if name == chosen else None
        table.add_row(
            f"> {name}" if name == chosen else f"  {name}", *numbers, fits_in_words(counted, memory_gib), style=style
        )
    return table


def of_forward(plan: Plan, counted: Mapping[str, int]) -> str:
    """Returns the activations and loss of the largest micro-batch, for the user; nothing where they are unknown."""
    if "activations" not in counted:
        return ", without activations, which are not known for this architecture"
    activations, loss = (amount(counted[part]) for part in ("activations", "loss"))
    return f", with {activations} of activations and {loss} for the loss of {plan.forward_tokens:,} tokens"


def amount(size: float) -> str:
    """Returns bytes in the largest unit that they are at least one of: `1.50 GiB`."""
    unit = unit_of(int(size))
    return f"{size / UNITS[unit]:.2f} {unit}"


def needs_in_words(plan: Plan, needs: Needs, hardware: Hardware | None) -> list[str]:
    """Returns operations, communication and, with hardware, time and cost, for the user."""
    if needs.flops is None:
        return []
    about = "about " if plan.estimated else ""
    lines = [f"{about}{needs.flops:.3g} FLOP in all steps"]
    if needs.bytes:
        lines[0] += f", {amount(needs.bytes)} sent by each process in a step"
    if hardware is None or needs.seconds is None or needs.mfu is None or needs.tokens_per_second is None:
        return lines
    devices = f"{plan.world} x {hardware.name}"
    speed = f"{needs.tokens_per_second:,.0f} tokens/s, MFU {needs.mfu:.0%}, bound by {needs.bound}"
    cost = f"{needs.device_hours:.3g} device-hours"
    cost += f", {needs.price:.2f} at {hardware.price_per_hour:g} an hour" if needs.price is not None else ""
    return [*lines, f"{about}{duration(needs.seconds)} on {devices}: {speed}; {cost}"]


def duration(seconds: float) -> str:
    """Returns a time in its largest unit: `3.2 h`."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (unit != "days" and seconds >= size):
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


_SHOWN = 8


def print_candidates(candidates: Sequence[Candidate], memory_gib: float, console: Console) -> None:
    """Prints the settings that fit, the fastest first."""
    if not candidates:
        console.print(f"Nothing fits into {memory_gib:g} GiB. Try: tuning=lora, more processes, data.max_length=...")
        return
    table = Table(title=f"Settings that fit into {memory_gib:g} GiB, best first", title_justify="left", padding=0)
    for heading in ("strategy", "activation_checkpointing", "micro-batch", "peak GiB", "time"):
        table.add_column(heading, justify="right" if heading in ("peak GiB", "time") else "left", no_wrap=True)
    for each in candidates[:_SHOWN]:
        time = "" if each.seconds is None else duration(each.seconds)
        table.add_row(
            each.strategy, each.recomputed, each.micro.removeprefix("train."), f"{each.peak / UNITS['GiB']:.1f}", time
        )
    console.print(table)
    if len(candidates) > _SHOWN:
        console.print(f"and {len(candidates) - _SHOWN} more (--json has all)", style="dim")


def unit_of(size: int) -> str:
    """Returns the largest unit that `size` bytes are at least one of."""
    return next((name for name, unit in UNITS.items() if size >= unit), "KiB")


def _total(counted: dict[str, int]) -> int:
    return counted["total"]


def fits_in_words(counted: dict[str, int], memory_gib: float | None) -> str:
    """Returns whether the peak fits on the device; host memory is not included."""
    on_device = counted.get("peak", counted["total"] - counted["host"] + counted.get("gathered", 0))
    place = "host memory" if counted["host"] == counted["total"] else "partly host memory" if counted["host"] else ""
    if memory_gib is None:
        return place
    return "does not fit" if on_device > memory_gib * UNITS["GiB"] else place or "fits"
