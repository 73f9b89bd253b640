"""Writes a run's batch script: slurm/train.sbatch with this job's options and environment in their places."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from distft.paths import shipped_dir
from distft.run import RunFolder
from distft.runtime.environment import passed_on

_BEGIN, _END = "# environment", "# the run"
_OPTIONS = "#SBATCH "
_CODE = Path(__file__).resolve().parents[3]
_PROGRAM = "bash -c 'trap"  # the line that starts a node's program
_MODULES = """\
for init in "$LMOD_PKG/init/bash" "$MODULESHOME/init/bash" /etc/profile.d/lmod.sh /etc/profile.d/modules.sh; do
    if ! command -v module >/dev/null && [ -r "$init" ]; then source "$init"; fi  # no login shell has done it
done"""


@dataclass(frozen=True)
class Environment:
    """What the ranks run in."""

    kind: Literal["venv", "module", "container"] = "venv"
    modules: Sequence[str] = ()
    container_image: str | None = None
    container_mounts: Sequence[str] = ()
    fabric: Mapping[str, Any] = field(default_factory=dict)  # variable -> {value, why}


def script_of(run: RunFolder) -> Path:
    return run.path / "train.sbatch"


def write_script(run: RunFolder, options: Mapping[str, str | None], environment: Environment) -> None:
    """Writes the script that runs `run` as it is frozen, by hand as well: `sbatch RUN/train.sbatch`."""
    template = (shipped_dir("slurm") / "train.sbatch").read_text()
    _, _, body = template.partition("set -eo pipefail")
    before, _, rest = body.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    head = ["#!/usr/bin/env bash", f"# {run.path.name}. By hand: sbatch {shlex.quote(str(script_of(run)))}"]
    head += [f"{_OPTIONS}{option}" for option in flags(options)]
    head += ["set -eo pipefail"]
    text = "\n".join(head) + before.replace("${1:?the run folder}", f"${{1:-{shlex.quote(str(run.path))}}}")
    text += "\n".join([_BEGIN, *setup(environment), "", f"{_END}{after}"])
    if environment.kind == "container":
        text = text.replace(_PROGRAM, f"{' '.join(_container(run, environment))} \\\n    {_PROGRAM}")
    run.logs.mkdir(parents=True, exist_ok=True)  # where it is missing, sbatch's job fails without a word
    script_of(run).write_text(text)
    script_of(run).chmod(0o755)


def flags(options: Mapping[str, str | None]) -> list[str]:
    """Returns options as sbatch takes them: --nodes=2, and --exclusive for one without a value."""
    return [f"--{name}" if value is None else f"--{name}={shlex.quote(value)}" for name, value in options.items()]


def setup(environment: Environment) -> list[str]:
    """Returns the lines that make the environment on a node; what the user has set already is left as it is."""
    lines = []
    if environment.kind == "module":
        lines += [*_MODULES.splitlines(), *(f"module load {shlex.quote(module)}" for module in environment.modules)]
    if environment.kind == "container" and (_CODE / "pyproject.toml").is_file():
        lines.append(f"export PYTHONPATH={shlex.quote(str(_CODE))}${{PYTHONPATH:+:$PYTHONPATH}}")
    lines.append(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH HF_HUB_OFFLINE=1")
    for name, entry in environment.fabric.items():
        lines.append(f"export {name}=${{{name}:-{entry['value']}}}  # {entry['why']}")
    return lines


def exported() -> str:
    """Returns the names of the variables that a job inherits: an allow-list, and no secret."""
    return ",".join(sorted(passed_on(os.environ)))


def _container(run: RunFolder, environment: Environment) -> list[str]:
    """Returns srun's options of pyxis: the image, and every folder that the run reads or writes under its own name.

    Code that is installed, and no checkout, is the image's own: what lies beside it is made for this machine.
    """
    config, plan = run.read_config(), run.read_plan()
    folders = {config["runs_dir"], config["cache_dir"], plan.model_dir, plan.tokenizer_dir, plan.data_dir}
    folders |= {config["launcher"]["stage_dir"]} | ({config["checkpoint"]["resume"]} - {"auto", "never"})
    folders |= {str(_CODE)} if (_CODE / "pyproject.toml").is_file() else set()
    mounts = [f"{folder}:{folder}" for folder in sorted(filter(None, folders))] + list(environment.container_mounts)
    image = shlex.quote(str(environment.container_image))
    return [
        f"--container-image={image}",
        f"--container-mounts={shlex.quote(','.join(mounts))}",
        "--no-container-mount-home",
    ]
