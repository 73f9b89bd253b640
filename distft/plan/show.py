"""Prints the plan: batch arithmetic, steps, and the memory of every strategy."""

from rich.console import Console
from rich.table import Table

from distft.config import Config
from distft.config.schema import Train
from distft.run import Plan

UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}
NOT_COUNTED = (
    "gathered: the peak that FSDP2 (ddp, fsdp, hsdp) adds to the total in a step: weights in the compute dtype, "
    "and gradients of embeddings and head. "
    "Not included: activations, weights gathered by ZeRO, communication buffers and time. "
    "They need additional memory, more with larger micro-batches and data.max_length."
)


def show(plan: Plan, config: Config, memory_gib: float | None, console: Console) -> None:
    """Prints the batch arithmetic and the memory of every strategy, the chosen one marked."""
    for line in config.notes:
        console.print(line, soft_wrap=True, markup=False)
    console.print(arithmetic(plan, config))
    if plan.memory and plan.parameters:
        console.print(memory(plan, config.choices["strategy"], memory_gib))
        console.print(NOT_COUNTED, style="dim", soft_wrap=True)
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
    title = f"{unit} per process of persistent state"
    table = Table(title=title, title_justify="left", padding=0)  # to fit a terminal of 80 columns
    for heading in ("strategy", "parameters", "gradients", "optimizer", "total", "gathered"):
        table.add_column(heading, justify="left" if heading == "strategy" else "right", no_wrap=True)
    table.add_column(f"{memory_gib:g} GiB" if memory_gib is not None else "", no_wrap=True)
    for name, counted in plan.memory.items():
        numbers = [f"{counted[part] / UNITS[unit]:.2f}" for part in ("parameters", "gradients", "optimizer", "total")]
        numbers.append(f"{counted['gathered'] / UNITS[unit]:.2f}" if "gathered" in counted else "")
        style = "bold" if name == chosen else None
        table.add_row(
            f"> {name}" if name == chosen else f"  {name}", *numbers, fits_in_words(counted, memory_gib), style=style
        )
    return table


def unit_of(size: int) -> str:
    """Returns the largest unit that `size` bytes are at least one of."""
    return next((name for name, unit in UNITS.items() if size >= unit), "KiB")


def _total(counted: dict[str, int]) -> int:
    return counted["total"]


def fits_in_words(counted: dict[str, int], memory_gib: float | None) -> str:
    """Returns whether the state fits on the device; host memory is not included."""
    on_device = counted["total"] - counted["host"] + counted.get("gathered", 0)
    place = "host memory" if counted["host"] == counted["total"] else "partly host memory" if counted["host"] else ""
    if memory_gib is None:
        return place
    return "does not fit" if on_device > memory_gib * UNITS["GiB"] else place or "fits"
