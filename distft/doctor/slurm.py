"""Checks of SLURM from the login node: programs, controller, partitions, node names."""

import shutil
import socket
import subprocess
from collections import defaultdict
from collections.abc import Iterator

from distft.config.errors import nearest
from distft.config.parts import Launcher
from distft.doctor.finding import Finding, Refused
from distft.machines import node_range

PROGRAMS = ("sbatch", "srun", "squeue", "scontrol", "sinfo", "scancel")
_SECONDS_TO_ANSWER = 30
_CONFIGURED = "SLURM_CONF= or /etc/slurm/slurm.conf of a login node, which this machine may not be; launcher=local"
_MOST_NAMES = 256  # on a cluster of thousands only the first are checked


def srun_options(launcher: Launcher) -> list[str]:
    """Returns srun's options for an allocation like that of a run."""
    values = {
        "partition": launcher.partition,
        "account": launcher.account,
        "qos": launcher.qos,
        "constraint": launcher.constraint,
        "gpus-per-node": launcher.gpus_per_node,
    }
    return [f"--{option}={value}" for option, value in values.items() if value]


def check_programs() -> Iterator[Finding]:
    """Checks that SLURM's programs are on PATH."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        remedy = "module load slurm, or PATH with SLURM's bin folder; launcher=local works without SLURM"
        yield Finding("slurm", "problem", f"{', '.join(missing)} not on PATH", remedy)
    else:
        yield Finding("slurm", "ok", f"{ask('sinfo', '--version').strip()} in {shutil.which('srun')}")


def check_controller() -> Iterator[Finding]:
    """Checks that the controller answers, and whether accounting is enabled."""
    said = ask("scontrol", "ping").strip()
    if " UP" not in said:
        seen = said.splitlines()[0] if said else "the controller does not answer"
        yield Finding("controller", "problem", seen, "sdiag, or SLURM_CONF, or ask the administrators of the cluster")
        return
    yield Finding("controller", "ok", said.splitlines()[0])
    config = ask("scontrol", "show", "config")
    kinds = [line.split("=")[1].strip() for line in config.splitlines() if line.startswith("AccountingStorageType")]
    if kinds and kinds[0].endswith("/slurmdbd"):
        yield Finding("accounting", "ok", "sacct reports how jobs ended")
    else:
        yield Finding("accounting", "ok", "disabled: only the run folder records how a job ended")


def check_partitions(launcher: Launcher) -> Iterator[Finding]:
    """Lists the partitions, and checks that the chosen one exists, is up and large enough."""
    partitions: dict[str, list[str]] = defaultdict(list)
    down: dict[str, bool] = {}
    size: dict[str, int] = defaultdict(int)
    for line in ask("sinfo", "-h", "-o", "%P|%a|%D|%T|%l|%G").splitlines():
        name, available, nodes, state, limit, resources = line.split("|")
        there = "" if resources == "(null)" else f" with {resources}"
        partitions[name].append(f"{nodes} {state}{there}, limit {limit}")
        down[name] = available != "up"
        size[name] += int(nodes)
    default = next((name.rstrip("*") for name in partitions if name.endswith("*")), None)
    known = {name.rstrip("*"): name for name in partitions}
    chosen, nodes = launcher.partition or default, node_range(launcher.nodes)[0]
    for name, lines in partitions.items():
        seen = f"{name}: {'; '.join(lines)}{' (not up)' * down[name]}"
        usable = any(word in seen for word in ("idle", "mixed", "allocated", "completing"))
        if name.rstrip("*") == chosen and (down[name] or not usable):
            yield Finding("partition", "problem", seen, f"another launcher.partition, or sinfo -R -p {chosen}")
        else:
            yield Finding("partition", "ok", seen)
    if chosen is None:
        seen = "launcher.partition is not given and the cluster has no default"
        yield Finding("partition", "problem", seen, f"launcher.partition={next(iter(known), '...')}")
    elif chosen not in known:
        meant = f"launcher.partition={nearest(chosen, known) or next(iter(known), '...')}"
        yield Finding("partition", "problem", f"launcher.partition={chosen}: the cluster has no such partition", meant)
    elif size[known[chosen]] < nodes:
        seen = f"launcher.nodes={launcher.nodes}: {chosen} has {size[known[chosen]]}"
        yield Finding("partition", "problem", seen, f"launcher.nodes={size[known[chosen]]}")


def check_node_names(launcher: Launcher) -> Iterator[Finding]:
    """Checks that this machine can resolve the names of the nodes, which logs and messages use."""
    options = ["-p", launcher.partition] if launcher.partition else []
    names = list(dict.fromkeys(ask("sinfo", "-h", "-N", "-o", "%N", *options).split()))[:_MOST_NAMES]
    lost = [name for name in names if not _resolves(name)]
    if lost:
        some = ", ".join(lost[:4]) + (f" and {len(lost) - 4} more" if len(lost) > 4 else "")
        remedy = "nothing, as long as the nodes can reach each other, which the all-reduce on them tests"
        yield Finding("node names", "warning", f"{some} of {len(names)} do not resolve from here", remedy)
    else:
        yield Finding("node names", "ok", f"{len(names)} resolve from here")


def ask(*command: str) -> str:
    """Returns the output of a SLURM program; Refused with its last line when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS_TO_ANSWER, check=False)
    except FileNotFoundError:
        raise Refused(f"{command[0]} is not on PATH", "module load slurm, or PATH with SLURM's bin folder") from None
    except subprocess.TimeoutExpired:
        seen = f"{' '.join(command)} gives no answer within {_SECONDS_TO_ANSWER} s"
        raise Refused(seen, "scontrol ping, or ask the administrators of the cluster") from None
    if done.returncode and not done.stdout.strip():
        last = (done.stderr.strip() or f"{command[0]} ended with {done.returncode}").splitlines()[-1]
        raise Refused(f"SLURM does not answer here: {last}", _CONFIGURED)
    return done.stdout


def _resolves(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, None))
    except OSError:
        return False
