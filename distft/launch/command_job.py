"""A distft command as a SLURM job on one node: `launcher=slurm` of evaluate and generate.

The login node checks the command and submits a folder that holds it. The job's script is that of a run; on the node the
command takes the place of the ranks, starts its own processes as on any machine, and writes its own results.
"""

import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distft.config import Config, ConfigError, compose
from distft.config.freeze import frozen_text
from distft.config.parts import LEAST_WARNING
from distft.config.schema import Origin
from distft.launch.stages import make_part, submit
from distft.launchers.contract import Handle
from distft.machines import processes_per_node
from distft.paths import absolute, conf_dir, unused, why_not_writable
from distft.run import Plan, RunFolder

PROCESSES = "launcher.processes_per_node"
CHOICES = ("launcher=local", "launcher=slurm")
HELP = {
    "launcher": "local (default), or slurm: a job on one node, with the keys of launcher=slurm: launcher.partition ...",
    "launcher.wait": "false: return once the job is submitted (launcher=slurm)",
}
# Keys of a run's own launcher that its evaluations do not take over.
_OF_A_RUN = ("nodes", "processes_per_node", "gpus_per_node", "wait", "preflight", "restarts", "hang_seconds")
_NO_PATHS = ("base", "eval")  # words that such a key may have in place of a path
_SECONDS_BETWEEN_LOOKS = 0.2


def split_launcher(words: Sequence[str]) -> tuple[list[str], Config | None, list[str]]:
    """Returns a command's words without its launcher's, the launcher of launcher=slurm, and messages on wrong words.

    The launcher is in a config that has nothing else of the user; None: the command runs on this machine.
    launcher.processes_per_node stays with the command; `auto` becomes the number of GPUs that the job requests.
    """
    own = [word for word in words if _is_of_launcher(word)]
    others = [word for word in words if not _is_of_launcher(word)]
    chosen = [word for word in own if word.startswith("launcher=")]
    errors = [f"{word}: a command runs on this machine or as a job. Allowed: {', '.join(CHOICES)}" for word in chosen
              if word not in CHOICES]  # fmt: skip
    if errors:
        return others, None, errors
    if chosen[-1:] != ["launcher=slurm"]:
        unused_words = [word for word in own if word not in chosen]
        return others, None, [f"{word}: has no effect without launcher=slurm" for word in unused_words]
    if nodes := [word for word in own if word.startswith("launcher.nodes=") and word != "launcher.nodes=1"]:
        errors.append(f"{nodes[-1]}: a command runs on one node. Try: {PROCESSES}=N")
    rows = conf_dir() / "config.yaml"  # a config needs training rows; nothing reads them
    try:
        config = compose(["model.tiny=true", f"data.train={rows}", "data.eval=null", *own])
    except ConfigError as error:
        return others, None, [*errors, *error.messages]
    gpus = config.values["launcher"].get("gpus_per_node")
    count = processes_per_node({"processes_per_node": "auto", "gpus_per_node": gpus})
    others = [f"{PROCESSES}={count}" if word == f"{PROCESSES}=auto" else word for word in others]
    return others, config, errors


def _is_of_launcher(word: str) -> bool:
    key = word.partition("=")[0]
    return key == "launcher" or (key.startswith("launcher.") and key != PROCESSES)


def with_paths(words: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Returns the words with absolute paths for those keys, since a job may start in another folder."""
    found = []
    for word in words:
        key, _, value = word.partition("=")
        is_path = key in keys and value not in _NO_PATHS and (absolute(value).exists() or key == "out")
        found.append(f"{key}={absolute(value)}" if is_path else word)
    return found


def mounts_of(words: Sequence[str], keys: Sequence[str]) -> list[Path]:
    """Returns the folders of the files that those keys name, which a container must see."""
    folders = []
    for word in words:
        key, _, value = word.partition("=")
        if key in keys and value not in _NO_PATHS:
            path = absolute(value)
            folders.append(path if path.is_dir() else path.parent)
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


@dataclass(frozen=True)
class JobOf:
    """What a command's job needs of a run: its config, with the launcher of the job, and its plan."""

    config: Config
    plan: Plan


def job_of(config: Config, plan: Plan, asked: Config, mounts: Sequence[Path]) -> JobOf:
    """Returns the job of a command on a run. asked: the config with the launcher of the command line.

    The launcher's keys that the command line does not name are those of the run, where that was a job too. mounts:
    folders that a container must see.
    """
    before = config.values["launcher"]
    section = dict(asked.values["launcher"])
    if before.get("_target_") == section["_target_"]:
        kept = [key for key in before if f"launcher.{key}" not in asked.given and key not in _OF_A_RUN]
        section |= {key: before[key] for key in kept}
    section |= {"nodes": 1, "processes_per_node": plan.processes_per_node}
    section["warning_seconds"] = LEAST_WARNING  # a command saves nothing at a warning
    section["container_mounts"] = [*section["container_mounts"], *(f"{folder}:{folder}" for folder in mounts)]
    choices = {**config.choices, "launcher": "slurm"}
    changed = Config.of(config.values | {"launcher": section}, Origin(choices, config.given))
    return JobOf(changed, replace(plan, nodes=1))


def run_as_job(name: str, words: Sequence[str], folder: Path, job: "JobOf") -> int:
    """Runs `distft NAME WORDS` as a job whose files are in FOLDER/jobs, and prints its output.

    Returns its exit code; 0 once it is submitted where launcher.wait=false. ConfigError where SLURM refuses it.
    """
    if why := why_not_writable(folder):
        raise ConfigError([f"launcher=slurm: {why}; the job's files are there. Try: a folder that you can write to"])
    run = RunFolder(unused(folder / "jobs" / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"))
    handle = submit_program([f"distft.{name}", *words], run.path, job)
    print(f"{handle.name} runs distft {name}, log: {run.logs / 'slurm.out'}", file=sys.stderr, flush=True)
    if not job.config.launcher.wait:
        print(f"{handle.name} will print to {run.program_output}")
        return 0
    try:
        while (outcome := handle.wait(_SECONDS_BETWEEN_LOOKS)) is None:
            pass
    except KeyboardInterrupt:
        print(f"{handle.name} continues. End it: scancel {handle.name.split()[-1]}", file=sys.stderr)
        return 128 + signal.SIGINT
    if outcome.error:
        print(f"{handle.name} failed: {outcome.error['message']}\n  log: {outcome.error['log']}", file=sys.stderr)
    elif run.program_output.is_file():
        print(run.program_output.read_text(), end="")
    return outcome.exit_code


def submit_program(words: Sequence[str], folder: Path, job: "JobOf") -> Handle:
    """Submits a module of distft with its arguments as a job whose files are in a new folder.

    ConfigError where SLURM refuses it; then the folder is gone.
    """
    launcher = make_part(job.config, "launcher")
    run = RunFolder(folder)
    run.logs.mkdir(parents=True)
    run.config.write_text(frozen_text(job.config))
    run.write_plan(job.plan)
    run.write_program(words)
    run.write_status(state="pending", attempt=1, exit_code=None, error=None)
    try:
        [handle] = submit(launcher, [run])
    except ConfigError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return handle
