"""The process of one rank: `python -m distft.rank RUN_DIR --attempt N --parent PID`.

Set up before torch is imported: output goes to the rank's log, an exception to its error file, and the process dies
with its parent. An out-of-memory error gets the plan's figures and changes to try.
"""

import argparse
import importlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distft.run import Plan, RunFolder
from distft.runtime import heartbeat, stacks
from distft.runtime.errors import record
from distft.runtime.logs import redirect, silence
from distft.runtime.process import die_with_parent, leave, uncollected
from distft.runtime.stop import listen

if TYPE_CHECKING:  # it takes a second to import; signals must be handled first
    from distft.config import Config
    from distft.config.parts import Launcher

GIB = 2**30
_CHANGES = 3
_TRIED = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)
_NEXT = {"none": "selective", "selective": "full"}  # train.activation_checkpointing


class OutOfMemory(RuntimeError):
    """A device is out of memory; the message has the planned memory and changes to try."""


def out_of_memory(message: str, plan: Plan, config: "Config", strategy: str) -> OutOfMemory:
    """Returns the error with torch's message, the planned memory, and three changes that need less.

    message: of torch. strategy: its name in the config.
    """
    amount = _TRIED.search(message)
    more = f"tried to allocate {amount[1]}" if amount else message.strip().partition("\n")[0]
    changes = list(smaller_settings(plan, config, strategy))[:_CHANGES]
    return OutOfMemory(f"out of memory: {more}. {planned_memory(plan, strategy)} Try: {', or '.join(changes)}")


def planned_memory(plan: Plan, strategy: str) -> str:
    """Describes the planned memory of a process."""
    kept = "a forward of {} keeps the rest".format(
        f"{plan.micro_batch_size} rows" if plan.micro_batch_size else f"{plan.micro_batch_tokens} tokens"
    )
    if strategy not in plan.memory:
        return f"{kept.capitalize()} in addition to weights, gradients and optimizer."
    of = plan.memory[strategy]
    parts = ", ".join(f"{part} {of[part] / GIB:.1f}" for part in ("parameters", "gradients", "optimizer"))
    gathered = f", and in a step gathered {of['gathered'] / GIB:.1f}" if of.get("gathered") else ""
    return f"Planned for a process under {strategy}: {of['total'] / GIB:.1f} GiB ({parts}){gathered}; {kept}."


def smaller_settings(plan: Plan, config: "Config", strategy: str) -> Iterator[str]:
    """Yields changes that need less memory; those that keep the result the same come first."""
    rows, tokens, row = plan.micro_batch_size, plan.micro_batch_tokens, config.data.max_length
    if rows and rows > 1:
        yield f"train.micro_batch_size={rows // 2}"
    if tokens and tokens > row:
        yield f"train.micro_batch_tokens={max(tokens // 2, row)}"
    now = config.train.activation_checkpointing
    if now in _NEXT:
        yield f"train.activation_checkpointing={_NEXT[now]}"
    table = {name: of["total"] - of["host"] for name, of in plan.memory.items()}
    if strategy in table and min(table.values()) < table[strategy]:
        name = min(table, key=lambda each: table[each])
        yield f"strategy={name} ({table[name] / GIB:.1f} instead of {table[strategy] / GIB:.1f} GiB of these)"
    if tokens and tokens <= row:
        yield f"data.max_length={tokens // 2} train.micro_batch_tokens={tokens // 2}"
    yield f"launcher.nodes={2 * plan.nodes}"
    if plan.adapters is None:
        yield "tuning=lora"


TRAIN = "distft.worker.train"
_NO_MEMORY = re.compile(  # in a RuntimeError of torch, a driver, cuBLAS or NCCL; the first alternative is a CPU's
    r"can't allocate memory|out of (device |host )?memory|OUT_OF_(DEVICE_|HOST_)?MEMORY|_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")  # the newest name first


def main() -> None:
    """Runs this rank: training, or the function named by `work` in the frozen config."""
    listen()  # before torch is imported, which takes seconds: a signal during the import is not a failure
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True, help="process whose death ends this one")
    parser.add_argument("--beats", type=Path, help="folder of this node for heartbeats")
    given = parser.parse_args()
    run, rank = RunFolder(given.run), int(os.environ["RANK"])
    die_with_parent(given.parent)
    if given.beats:
        stacks.answer(given.beats / f"rank-{rank}.stacks")
        heartbeat.begin(given.beats, rank)
    redirect(run.rank_log(given.attempt, rank))
    silence()
    os.environ["HF_HUB_OFFLINE"] = "1"  # files were fetched before the run; a node may have no network
    if not any(name in os.environ for name in _ALLOCATOR):  # micro-batches of many sizes leave gaps in fixed segments
        os.environ[_ALLOCATOR[0]] = "expandable_segments:True"
    with record(run, given.attempt, rank):
        from distft.config import read_config  # takes a second to import; signals must be handled first
        from distft.config.targets import check_trusted

        config = read_config(run)
        check_trusted(config.values)
        if config.train.deterministic:
            from distft.runtime.determinism import make_deterministic

            make_deterministic()
        with uncollected():
            work = find_work(config.work or TRAIN, config.trust)
            from distft.runtime.process_group import collective_seconds, process_group

        check_devices(config.launcher)
        heartbeat.enter("start")  # after the imports, from a disk that all ranks read at once
        hang = (config.launcher.hang_seconds, config.launcher.hang_seconds_outside)
        with process_group(collective_seconds(*hang)) as world:
            heartbeat.enter("start")
            with explain_out_of_memory(run, config):
                work(run, given.attempt, world)
    leave()


def check_devices(launcher: "Launcher") -> None:
    """Raises RuntimeError when the run uses accelerators and torch cannot: the driver is too old, or torch is another
    build. A job without accelerators may run on a node that has some."""
    is_job = "gpus_per_node" in launcher.model_fields_set  # a launcher without a scheduler does not have the key
    if is_job and launcher.gpus_per_node is None and not os.environ.get("SLURM_GPUS_ON_NODE"):
        return
    from distft.config.machines import plugged_in, torch_build, wasted

    plugged = plugged_in()
    if not plugged.count:
        return
    import torch

    if torch.accelerator.current_accelerator(check_available=True) is not None:
        return
    why = "no device is available"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        why = str(error).strip().splitlines()[0]
    raise RuntimeError(wasted(plugged, torch_build(), why))


@contextmanager
def explain_out_of_memory(run: RunFolder, config: "Config") -> Iterator[None]:
    """Turns an out-of-memory error into OutOfMemory, with the planned memory and changes to try."""
    import torch

    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not _NO_MEMORY.search(str(error)):
            raise
        strategy = config.choices.get("strategy", "")
        raise out_of_memory(str(error), run.read_plan(), config, strategy) from error


def prepare(config: "Config") -> None:
    """Imports the modules that a rank with this config needs."""
    for target in (config.work or TRAIN, config.strategy.target):
        if target and target.startswith("distft."):
            importlib.import_module(target.rpartition(".")[0])


def find_work(name: str, trust: list[str]) -> Callable[..., Any]:
    """Returns the function of a dotted name; ValueError unless it is distft's own or of a trusted prefix."""
    from hydra.utils import get_method

    prefixes = ("distft.", *(f"{prefix.rstrip('.')}." for prefix in trust))
    if not name.startswith(prefixes):
        raise ValueError(f"work={name}: code is run from {', '.join(prefixes)} only. Try: work={TRAIN}")
    return get_method(name)


if __name__ == "__main__":
    main()
