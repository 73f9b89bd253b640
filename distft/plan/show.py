"""The plan on a terminal."""

from rich.console import Console
from rich.table import Table

from distft.config import Config
from distft.run import Plan

GIB = 2**30
NOT_COUNTED = (
    "Not counted: activations, gathered layers, communication buffers and time. "
    "They need memory beside this, more with train.micro_batch_size and data.max_length."
)


def show(plan: Plan, config: Config, memory_gib: float | None, console: Console) -> None:
    """Prints the batch arithmetic and the memory of every strategy, the chosen one marked."""
    console.print(arithmetic(plan, config))
    if plan.memory and plan.parameters:
        console.print(memory(plan, config.choices["strategy"], memory_gib))
        console.print(NOT_COUNTED, style="dim", soft_wrap=True)
    elif not plan.parameters:
        console.print("The parameters of this architecture are unknown until its model is fetched (distft prepare).")
    else:
        console.print(f"The state of {config.values['optimizer']['_target_']} is unknown: no memory is counted.")


def arithmetic(plan: Plan, config: Config) -> Table:
    about = "about " if plan.estimated else ""
    training = config.values["train"]
    tokens = training["global_batch_tokens"]
    batch = f"at most {tokens:,} tokens" if tokens else f"{training['global_batch_size']:,} rows"
    parts = f"{plan.micro_batch_size} rows x {plan.world} processes x {plan.accumulation} micro-batches"
    rows = [
        (
            "model",
            f"{config.choices['model']}, {plan.parameters:,} parameters" + " (tiny)" * config.values["model"]["tiny"],
        ),
        ("processes", f"{plan.world} = {plan.nodes} nodes x {plan.processes_per_node}"),
        ("global batch", f"{batch} = {parts}" if not tokens else f"{batch}, {about}{parts}"),
        ("steps", f"{about}{plan.steps:,}" if plan.steps else "unknown until the data is here"),
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


def memory(plan: Plan, chosen: str, memory_gib: float | None) -> Table:
    table = Table(title="GiB per process for state that lives through the run", title_justify="left")
    for heading in ("strategy", "parameters", "gradients", "optimizer", "total", ""):
        table.add_column(heading, justify="right" if heading not in ("strategy", "") else "left")
    for name, counted in plan.memory.items():
        numbers = [f"{counted[part] / GIB:.2f}" for part in ("parameters", "gradients", "optimizer", "total")]
        style = "bold" if name == chosen else None
        table.add_row(
            f"{name} <- chosen" if name == chosen else name, *numbers, _remark(counted, memory_gib), style=style
        )
    return table


def _remark(counted: dict[str, int], memory_gib: float | None) -> str:
    on_device = counted["total"] - counted["host"]
    place = (
        "in host memory" if counted["host"] == counted["total"] else "partly in host memory" if counted["host"] else ""
    )
    if memory_gib is not None and on_device > memory_gib * GIB:
        return f"does not fit into {memory_gib:g} GiB"
    return place
