"""Runs on a SLURM cluster: one job per run, one array per sweep, submitted by submitit.

The job's script is in the run folder and can be submitted by hand with the same effect.
"""

import os
import shlex
import sys
import time as clock
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import submitit
from submitit.core.utils import FailedSubmissionError, UncompletedJobError

from distft.config.errors import Unavailable, nearest
from distft.config.freeze import read_config
from distft.config.parts import LEAST_WARNING
from distft.launchers.slurm import commands
from distft.launchers.slurm.commands import (
    NoAnswer,
    Partition,
    SlurmError,
    is_no_answer,
    job_of_script,
    outside_of_job,
    partitions,
    seconds,
    with_retries,
)
from distft.launchers.slurm.job import SlurmRun, find_job, run_script
from distft.machines import node_range, num_gpus
from distft.machines import processes_per_node as count_processes
from distft.paths import shipped_dir
from distft.run import RunFolder, read_yaml, write_json
from distft.runtime.environment import passed_on

_BEGIN, _END = "# environment", "# the run"
_OPTIONS = "#SBATCH "
_CODE = Path(__file__).resolve().parents[3]
_PROGRAM = "bash -c 'trap"  # the line that starts a node's program
_MODULES = """\
for init in "$LMOD_PKG/init/bash" "$MODULESHOME/init/bash" /etc/profile.d/lmod.sh /etc/profile.d/modules.sh; do
    if ! command -v module >/dev/null && [ -r "$init" ]; then source "$init"; fi  # not a login shell
done"""


@dataclass(frozen=True)
class Environment:
    """The software environment of the ranks."""

    kind: Literal["venv", "module", "container"] = "venv"
    modules: Sequence[str] = ()
    container_image: str | None = None
    container_mounts: Sequence[str] = ()
    fabric: Mapping[str, Any] = field(default_factory=dict)  # variable -> {value, why}


def script_of(run: RunFolder) -> Path:
    return run.path / "train.sbatch"


def write_script(run: RunFolder, options: Mapping[str, str | None], environment: Environment) -> None:
    """Writes the batch script of the frozen `run`; by hand: `sbatch RUN/train.sbatch`."""
    template = (shipped_dir("slurm") / "train.sbatch").read_text()
    _, _, body = template.partition("set -eo pipefail")
    before, _, rest = body.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    head = ["#!/usr/bin/env bash", f"# {run.path.name}. By hand: sbatch {shlex.quote(str(script_of(run)))}"]
    head += [f"{_OPTIONS}{option}" for option in flags(options)]
    head += ["set -eo pipefail"]
    text = "\n".join(head) + before.replace("${1:?the run folder}", f"${{1:-{shlex.quote(str(run.path))}}}")
    text += "\n".join([_BEGIN, *setup(environment, recorded=True), "", f"{_END}{after}"])
    if environment.kind == "container":
        text = text.replace(_PROGRAM, f"{' '.join(_container(run, environment))} \\\n    {_PROGRAM}")
    run.logs.mkdir(parents=True, exist_ok=True)  # without it, sbatch's job fails without an error message
    script_of(run).write_text(text)
    script_of(run).chmod(0o755)


def flags(options: Mapping[str, str | None]) -> list[str]:
    """Returns options in sbatch's form: --nodes=2, and --exclusive for an option without a value."""
    return [f"--{name}" if value is None else f"--{name}={shlex.quote(value)}" for name, value in options.items()]


def setup(environment: Environment, recorded: bool = False) -> list[str]:
    """Returns the script lines that set up a node's environment; variables set by the user are kept.

    If `recorded`, a module that cannot be loaded ends the run as failed: no launch may be waiting to see that.
    """
    lines: list[str] = []
    if environment.kind == "module":
        lines += _MODULES.splitlines()
        for name in map(shlex.quote, environment.modules):
            record = f'{shlex.quote(sys.executable)} -m distft.launch.job without_module "$run" {name}'
            lines.append(f"module load {name}" + (f" || {{ {record}; exit 1; }}" if recorded else ""))
    if environment.kind == "container" and (_CODE / "pyproject.toml").is_file():
        lines.append(f"export PYTHONPATH={shlex.quote(str(_CODE))}${{PYTHONPATH:+:$PYTHONPATH}}")
    lines.append(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH HF_HUB_OFFLINE=1")
    for name, entry in environment.fabric.items():
        lines.append(f"export {name}=${{{name}:-{entry['value']}}}  # {entry['why']}")
    return lines


def exported() -> str:
    """Returns the names of the variables that a job inherits: an allow-list without secrets."""
    return ",".join(sorted(passed_on(os.environ)))


def _container(run: RunFolder, environment: Environment) -> list[str]:
    """Returns the pyxis options of srun: the image, and every folder of the run mounted at its own path.

    Installed code, unlike a checkout, comes from the image: the packages next to it are built for this machine.
    """
    config, plan = read_config(run), run.read_plan()
    folders = {config.runs_dir, config.cache_dir, plan.model_dir, plan.tokenizer_dir, plan.data_dir}
    folders |= {config.launcher.stage_dir} | ({config.checkpoint.resume} - {"auto", "never"})
    folders |= {str(_CODE)} if (_CODE / "pyproject.toml").is_file() else set()
    mounts = [f"{folder}:{folder}" for folder in sorted(filter(None, folders))] + list(environment.container_mounts)
    image = shlex.quote(str(environment.container_image))
    return [
        f"--container-image={image}",
        f"--container-mounts={shlex.quote(','.join(mounts))}",
        "--no-container-mount-home",
    ]


def partition_of(name: str | None, there: Sequence[Partition]) -> Partition:
    """Returns the partition of a job; ValueError with the nearest name when it does not exist."""
    names = [each.name for each in there]
    found = next((each for each in there if each.name == name or (name is None and each.is_default)), None)
    if found is None and name is None:
        raise ValueError(f"launcher.partition=null, and the cluster has no default. Try: {', '.join(names)}")
    if found is None:
        meant = nearest(str(name), names) or ", ".join(names)
        raise ValueError(f"launcher.partition={name}: there is no such partition. Try: {meant}")
    return found


def look_up(name: str | None) -> Partition:
    """Returns the partition of a job; ValueError when it, or the cluster, does not exist.

    Unavailable when the controller does not answer for a minute.
    """
    try:
        return partition_of(name, with_retries(partitions, commands.SECONDS_OF_COMMAND))
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
    warning_seconds: int,
) -> Iterator[str]:
    """Yields why a job cannot run in `partition`, with the keys to change."""
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
            f"launcher.processes_per_node={processes}: each needs one GPU, and launcher.gpus_per_node={gpus}. "
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
    limit = asked or partition.limit_seconds
    if limit and warning_seconds >= limit:
        less = f", or launcher.warning_seconds={max(LEAST_WARNING, limit // 4):.0f}" if limit > LEAST_WARNING else ""
        yield (
            f"launcher.warning_seconds={warning_seconds}: a job ends after {limit:.0f} s (launcher.time), so it would "
            f"save and be queued again after its first step. Try: a longer launcher.time{less}"
        )


@dataclass(frozen=True)
class SlurmConfig:
    """The keys of launcher=slurm that decide how a job is submitted; config/parts.py describes them."""

    nodes: int | str = 1
    processes_per_node: int | Literal["auto"] = "auto"
    jobs_at_once: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: int | str | None = None
    memory: int | str | None = None
    cpus_per_process: int | None = None
    gpus_per_node: int | str | None = None
    constraint: str | None = None
    exclude: Sequence[str] = ()
    flags: Mapping[str, Any] = field(default_factory=dict)
    warning_seconds: int = 120
    environment: Literal["venv", "module", "container"] = "venv"
    modules: Sequence[str] = ()
    container_image: str | None = None
    container_mounts: Sequence[str] = ()
    fabric: str | None = None


class Slurm:
    """Submits runs as jobs, which outlive the launching process."""

    outlives_launch = True
    is_hosted = False

    def __init__(self, config: SlurmConfig) -> None:
        """ValueError when no partition can run such jobs, Unavailable when SLURM does not answer."""
        self.config = config
        self.environment = Environment(
            config.environment,
            config.modules,
            config.container_image,
            config.container_mounts,
            read_fabric(config.fabric),
        )
        self.options = _options(config, look_up(config.partition))

    def submit(self, run_dirs: Sequence[Path]) -> list[SlurmRun]:
        """Queues one run as a job, several as an array; ValueError with sbatch's message when it refuses."""
        runs = [RunFolder(Path(path)) for path in run_dirs]
        for run in runs:
            write_script(run, self._options_of(run), self.environment)
        executor = submitit.SlurmExecutor(runs[0].logs / "submitit")
        executor.update_parameters(**self._parameters(runs))
        for run in runs:
            _note(run, None, scripts=runs[0].logs / "submitit")  # until its id is known, even if this process dies
        jobs = self._submit(executor, runs)
        return [_note(run, job) for run, job in zip(runs, jobs, strict=True)]

    def _submit(self, executor: submitit.SlurmExecutor, runs: Sequence[RunFolder]) -> list[str]:
        """Returns the jobs' ids; ValueError with sbatch's message, Unavailable when SLURM does not answer.

        Trap: an sbatch without an answer may have queued the job, so the queue is searched before another job is
        submitted.
        """

        is_asked = False

        def submit() -> list[str]:
            nonlocal is_asked
            if is_asked and (job := job_of_script(runs[0].logs / "submitit")) is not None:
                return [job] if len(runs) == 1 else [f"{job}_{index}" for index in range(len(runs))]
            is_asked = True
            with _outside_of_job():
                try:
                    return [each.job_id for each in executor.map_array(run_script, [str(run.path) for run in runs])]
                except (UncompletedJobError, FailedSubmissionError) as error:
                    said = _words_of_sbatch(str(error))
                    if is_no_answer(said):
                        raise NoAnswer(f"sbatch: {said}") from error
                    raise ValueError(f"launcher=slurm: sbatch refused the job: {said}") from error

        try:
            return with_retries(submit, commands.SECONDS_OF_COMMAND)
        except NoAnswer as error:
            later = "The job may have been queued. Try: the same command later, which searches the queue first"
            raise Unavailable(f"launcher=slurm: {error}. {later}") from error

    def find(self, run_dir: Path) -> SlurmRun | None:
        """Returns the run's queued or running job; Unavailable when SLURM does not answer."""
        run = RunFolder(Path(run_dir))
        job = find_job(run)
        return SlurmRun(run, job) if job else None

    def _options_of(self, run: RunFolder) -> dict[str, str | None]:
        log = str(run.logs / "slurm.out").replace("%", "%%")
        return {"job-name": run.path.name, "output": log, **self.options}

    def _parameters(self, runs: Sequence[RunFolder]) -> Mapping[str, Any]:
        """Returns submitit's parameters: the options of the run's script, without submitit's defaults."""
        first = runs[0]
        name = first.path.name if len(runs) == 1 else first.path.parent.name
        options = {name: True if value is None else value for name, value in self.options.items()}
        return {
            "job_name": name,
            "time": None,
            "wckey": None,
            "use_srun": False,
            "stderr_to_stdout": True,
            "array_parallelism": self.config.jobs_at_once or len(runs),
            "additional_parameters": options,
            "setup": ["trap : USR1 TERM  # for the ranks", *setup(self.environment)],
        }


def _options(config: SlurmConfig, partition: Partition) -> dict[str, str | None]:
    """Returns sbatch's options of a job in `partition`; ValueError when it cannot run there."""
    gpus, cpus = config.gpus_per_node, config.cpus_per_process
    processes = count_processes({"processes_per_node": config.processes_per_node, "gpus_per_node": gpus})
    if gpus is None and partition.gpus_per_node:
        gpus = processes
    if cpus is None and partition.gpus_per_node:
        cpus = max(1, partition.cpus_per_node // partition.gpus_per_node)
    if wrong := list(reasons(partition, config.nodes, processes, gpus, cpus, config.time, config.warning_seconds)):
        raise ValueError("\n  ".join(wrong))
    fewest, most = node_range(config.nodes)
    asked = {
        "partition": config.partition,
        "account": config.account,
        "qos": config.qos,
        # without --ntasks-per-node: with it, SLURM allocates the fewest nodes of a range
        "nodes": str(most) if fewest == most else f"{fewest}-{most}",
        "cpus-per-task": cpus and cpus * processes,
        "gpus-per-node": gpus if num_gpus(gpus) else None,
        "mem": config.memory,
        "time": config.time,
        "constraint": config.constraint,
        "exclude": ",".join(config.exclude) or None,
    }
    options: dict[str, str | None] = {name: str(value) for name, value in asked.items() if value is not None}
    options |= {"signal": f"USR1@{config.warning_seconds}", "requeue": None, "open-mode": "append"}
    options |= {"export": exported()}
    return options | {name: None if value is True else str(value) for name, value in config.flags.items()}


def read_fabric(name: str | None) -> Mapping[str, Any]:
    """Returns the variables of a network profile in slurm/fabrics/, each with value, reason and source."""
    if name is None:
        return {}
    folder = shipped_dir("slurm") / "fabrics"
    there = sorted(file.stem for file in folder.glob("*.yaml"))
    if name not in there:
        meant = nearest(name, there) or ", ".join(there)
        raise ValueError(f"launcher.fabric={name}: there is no such profile in {folder}. Try: {meant}")
    return read_yaml(folder / f"{name}.yaml")["variables"]


def _note(run: RunFolder, job: str | None, **about: Path) -> SlurmRun:
    """Records the job of `run`, so that a later launch finds it."""
    known = {"job": job, "attempt": run.read_status()["attempt"], "time": clock.time()}
    write_json(run.job, known | {key: str(value) for key, value in about.items()})
    return SlurmRun(run, job or "")


@contextmanager
def _outside_of_job() -> Iterator[None]:
    """Hides the variables of a surrounding job from sbatch: submitit passes the whole environment."""
    before, kept = dict(os.environ), outside_of_job()
    os.environ.clear()
    os.environ.update(kept)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _words_of_sbatch(text: str) -> str:
    """Returns sbatch's message from submitit's error text."""
    said = [line.partition("sbatch: error: ")[2] for line in text.splitlines() if "sbatch: error: " in line]
    return "; ".join(said) or text.strip().splitlines()[-1]
