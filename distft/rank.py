"""The process of one rank: `python -m distft.rank RUN_DIR --attempt N --parent PID`.

Set up before torch is imported: output goes to the rank's log, an exception to its error file, and the process dies
with its parent.
"""

import argparse
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distft.run import RunFolder
from distft.runtime import heartbeat, stacks
from distft.runtime.errors import record
from distft.runtime.logs import redirect, silence
from distft.runtime.process import die_with_parent, leave, uncollected
from distft.runtime.stop import listen

if TYPE_CHECKING:  # it takes a second to import; signals must be handled first
    from distft.config import Config
    from distft.config.parts import Launcher

TRAIN = "distft.worker.train"
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
            from distft.train.oom_probe import explain_out_of_memory

        check_devices(config.launcher)
        heartbeat.enter("start")  # after the imports, from a disk that all ranks read at once
        hang = (config.launcher.hang_seconds, config.launcher.hang_seconds_outside)
        with process_group(collective_seconds(*hang)) as world:
            heartbeat.enter("start")
            train, strategy = config.train, config.choices.get("strategy", "")
            with explain_out_of_memory(run, strategy, config.data.max_length, train.activation_checkpointing):
                work(run, given.attempt, world)
    leave()


def check_devices(launcher: "Launcher") -> None:
    """Raises RuntimeError when the run uses accelerators and torch cannot: the driver is too old, or torch is another
    build. A job without accelerators may run on a node that has some."""
    is_job = "gpus_per_node" in launcher.model_fields_set  # a launcher without a scheduler does not have the key
    if is_job and launcher.gpus_per_node is None and not os.environ.get("SLURM_GPUS_ON_NODE"):
        return
    from distft.machines import plugged_in, torch_build, wasted

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
