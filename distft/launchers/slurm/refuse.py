"""Says no to a job that SLURM would refuse, or leave in the queue for ever, before anything is written."""

from collections.abc import Iterator, Sequence

from distft.config.errors import Unavailable
from distft.config.machines import node_range, num_gpus
from distft.config.nearest import nearest
from distft.launchers.slurm import ask
from distft.launchers.slurm.ask import NoAnswer, Partition, SlurmError, partitions, patiently, seconds


def partition_of(name: str | None, there: Sequence[Partition]) -> Partition:
    """Returns the partition a job goes to; ValueError with the nearest name when there is none."""
    names = [each.name for each in there]
    found = next((each for each in there if each.name == name or (name is None and each.is_default)), None)
    if found is None and name is None:
        raise ValueError(f"launcher.partition=null, and the cluster has no default. Try: {', '.join(names)}")
    if found is None:
        meant = nearest(str(name), names) or ", ".join(names)
        raise ValueError(f"launcher.partition={name}: there is no such partition. Try: {meant}")
    return found


def look_up(name: str | None) -> Partition:
    """Returns the partition of a job; ValueError when there is none such, or no cluster.

    Unavailable when the controller does not answer for a minute.
    """
    try:
        return partition_of(name, patiently(partitions, ask.SECONDS_OF_COMMAND))
    except NoAnswer as error:
        raise Unavailable(f"launcher=slurm: {error}. Nothing was submitted. Try: the same command later") from error
    except SlurmError as error:
        raise ValueError(f"launcher=slurm: {error}. Try: a login node of the cluster, or launcher=local") from error


def reasons(
    partition: Partition,
    nodes: int | str,
    processes: int,
    gpus: int | str | None,
    cpus: int | None,
    time: int | str | None,
) -> Iterator[str]:
    """Yields why a job cannot run in `partition`, in the words of the keys that are wrong."""
    name, (fewest, _) = partition.name, node_range(nodes)
    if not partition.is_up:
        yield f"launcher.partition={name} is down: it takes no jobs now. Try: another partition"
    if fewest > partition.nodes:
        yield f"launcher.nodes={nodes}: partition {name} has {partition.nodes}. Try: {partition.nodes}"
    if num_gpus(gpus) > partition.gpus_per_node:
        there = partition.gpus_per_node
        yield f"launcher.gpus_per_node={gpus}: a node of partition {name} has {there}. Try: {there or 'null'}"
    elif 0 < num_gpus(gpus) < processes:
        yield (
            f"launcher.processes_per_node={processes}: each needs a GPU of its own, and launcher.gpus_per_node={gpus}. "
            f"Try: launcher.processes_per_node={num_gpus(gpus)}"
        )
    if cpus and cpus * processes > partition.cpus_per_node:
        most = partition.cpus_per_node // processes
        yield (
            f"launcher.cpus_per_process={cpus}: {processes} processes on a node of partition {name}, "
            f"which has {partition.cpus_per_node} cores. Try: {most or 'fewer processes'}"
        )
    asked = (seconds(str(time)) or float("inf")) if time is not None else 0
    if partition.limit_seconds and asked > partition.limit_seconds:
        yield (
            f"launcher.time={time} is over the limit of partition {name}. "
            f"Try: {partition.limit_seconds // 60} (minutes), or another partition"
        )
