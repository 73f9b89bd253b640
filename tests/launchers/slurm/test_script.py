"""A run's batch script is complete: it can be submitted by hand, with any folder name, in any environment."""

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from distft.launchers.slurm.launcher import Environment, exported, read_fabric, script_of, setup, write_script
from distft.paths import shipped_dir
from distft.run import RunFolder
from tests.support.slurm_run import freeze
from tests.support.stubs import calls, stub

ODD = ["plain", "données (1)", 'it\'s 50% "of" $HOME', "a;b&c|d", "`id` {x} #y", "*?[a]~!"]
FABRICS = sorted(file.stem for file in (shipped_dir("slurm") / "fabrics").glob("*.yaml"))


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for srun and the environment's python; `begin` says that there are 2 nodes."""
    folder = tmp_path / "pro grams"
    folder.mkdir()
    stub(folder, "python", 'case "$*" in *" begin "*) echo 2;; esac')
    stub(folder, "srun", f"env > {shlex.quote(str(folder))}/srun.env; exit ${{SRUN_ENDS:-0}}")
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    return folder


def run_script(run: RunFolder, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    given = {"SLURM_CPUS_PER_TASK": "5"} | variables
    command = ["bash", str(script_of(run)), *arguments]
    return subprocess.run(command, env=os.environ | given, capture_output=True, text=True, check=False)


def seen_by_srun(programs: Path) -> dict[str, str]:
    lines = (programs / "srun.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.mark.parametrize("name", ODD)
def test_every_folder_name_reaches_the_programs_unchanged(name: str, tmp_path: Path, programs: Path):
    run = RunFolder(tmp_path / name)
    run.path.mkdir()
    write_script(run, {"job-name": name, "requeue": None}, Environment())
    assert subprocess.run(["bash", "-n", str(script_of(run))], check=False).returncode == 0
    done = run_script(run)
    assert (done.returncode, done.stderr) == (0, "")
    path = str(run.path)
    assert calls(programs, "python") == [
        ["-m", "distft.launch.job", "begin", path],
        ["-m", "distft.launch.job", "end", path, "0"],
    ]
    [srun] = calls(programs, "srun")
    assert srun == [
        "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=5", "--export=ALL", "--kill-on-bad-exit=1",
        "bash", "-c", 'trap "" USR1 TERM; exec python -m distft.launchers.slurm.node "$0"', path,
    ]  # fmt: skip


def test_the_exit_code_of_srun_reaches_the_jobs_end(tmp_path: Path, programs: Path):
    run = RunFolder(tmp_path)
    write_script(run, {}, Environment())
    assert run_script(run, SRUN_ENDS="143").returncode == 0
    assert calls(programs, "python")[-1] == ["-m", "distft.launch.job", "end", str(tmp_path), "143"]


def test_a_job_that_cannot_start_starts_no_rank(tmp_path: Path, programs: Path):
    run = RunFolder(tmp_path)
    write_script(run, {}, Environment())
    stub(programs, "python", "exit 1")
    assert run_script(run).returncode == 1
    assert not calls(programs, "srun")


def test_sbatch_options_are_written_into_the_script(tmp_path: Path):
    run = RunFolder(tmp_path)
    write_script(run, {"nodes": "2", "constraint": "a&b", "requeue": None}, Environment())
    lines = script_of(run).read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and lines[5] == "set -eo pipefail"
    assert lines[2:5] == ["#SBATCH --nodes=2", "#SBATCH --constraint='a&b'", "#SBATCH --requeue"]
    assert os.access(script_of(run), os.X_OK)
    assert "DISTFT_VENV" not in script_of(run).read_text(), "the launching environment is the job's"


def test_modules_load_in_order_before_the_environments_python(tmp_path: Path, programs: Path):
    (tmp_path / "init").mkdir()
    noted = tmp_path / "modules"
    (tmp_path / "init" / "bash").write_text(f'module() {{ echo "$*" >> {noted}; PATH=/of/a/module:$PATH; }}\n')
    run = RunFolder(tmp_path)
    write_script(run, {}, Environment("module", ("gcc/12", "my cuda")))
    done = run_script(run, MODULESHOME=str(tmp_path), LMOD_PKG="")
    assert done.returncode == 0, done.stderr
    assert noted.read_text().splitlines() == ["load gcc/12", "load my cuda"]
    assert seen_by_srun(programs)["PATH"].startswith(f"{programs}:/of/a/module:")


@pytest.mark.slow
def test_a_module_that_cannot_be_loaded_fails_the_run(tmp_path: Path):
    run = freeze(tmp_path, "modules")
    write_script(run, {}, Environment("module", ("gcc/12",)))
    log = run.logs / "slurm.out"
    with log.open("w") as out:
        given = {"MODULESHOME": "/nowhere", "LMOD_PKG": "/nowhere", "MODULEPATH": str(tmp_path)}
        done = subprocess.run(["bash", script_of(run)], env=os.environ | given, stdout=out, stderr=out, check=False)
    status = run.read_status()
    assert (done.returncode, status["state"], status["exit_code"]) == (1, "failed", 1)
    assert "launcher.modules: module load gcc/12 failed. It printed: " in status["error"]["message"]
    said = status["error"]["message"].partition("It printed: ")[2].partition(". Try: ")[0]
    assert said.endswith('unknown: "gcc/12"') or said.endswith("module: command not found"), said


@pytest.mark.parametrize("fabric", FABRICS)
def test_a_fabric_sets_its_variables_and_leaves_the_users_own(fabric: str, tmp_path: Path, programs: Path):
    variables = read_fabric(fabric)
    assert variables and all(entry["why"] and entry["source"] for entry in variables.values())
    run = RunFolder(tmp_path)
    write_script(run, {}, replace(Environment(), fabric=variables))
    done = run_script(run)
    assert (done.returncode, done.stderr) == (0, "")
    seen = seen_by_srun(programs)
    assert {name: seen[name] for name in variables} == {name: str(each["value"]) for name, each in variables.items()}
    run_script(run, **dict.fromkeys(variables, "my own"))
    assert {seen_by_srun(programs)[name] for name in variables} == {"my own"}


def test_an_unknown_fabric_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"launcher.fabric=infinband: .* Try: infiniband$"):
        read_fabric("infinband")


def test_the_job_inherits_what_it_needs_and_no_secret(monkeypatch: pytest.MonkeyPatch):
    for name in (
        "HF_TOKEN",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "SLURM_JOB_ID",
        "CUDA_VISIBLE_DEVICES",
        "MY_OWN",
    ):
        monkeypatch.setenv(name, "value")
    for name in ("NCCL_DEBUG", "HF_HOME", "SLURM_CONF"):
        monkeypatch.setenv(name, "value")
    names = exported().split(",")
    assert {"PATH", "NCCL_DEBUG", "HF_HOME", "SLURM_CONF"} <= set(names)
    assert not {"HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "SLURM_JOB_ID", "MY_OWN"} & set(names)
    assert "ALL" not in names and "CUDA_VISIBLE_DEVICES" not in names


def test_a_container_mounts_every_folder_of_the_run(tmp_path: Path, programs: Path, checkout: Path):
    folder = tmp_path / "it's here"
    run = freeze(folder, "run", "launcher.stage=node_local", f"launcher.stage_dir={tmp_path / 'scratch'}")
    other = tmp_path / "other" / "checkpoints" / "step-00000004"
    values = run.read_config()
    values["checkpoint"]["resume"] = str(other)
    run.config.write_text(yaml.safe_dump(values))
    places = {"model_dir": "/models/m", "tokenizer_dir": "/models/t", "data_dir": "/data/d"}
    run.write_plan(replace(run.read_plan(), **places))
    image = "/images/torch 2.sqsh"
    write_script(run, {}, Environment("container", (), image, ("/more:/more:ro",)))
    assert run_script(run).returncode == 0
    [srun] = calls(programs, "srun")
    given = dict(word[2:].split("=", 1) for word in srun if word.startswith("--container"))
    assert given["container-image"] == image and "--no-container-mount-home" in srun
    mounts = given["container-mounts"].split(",")
    needed = [folder / "runs", folder / "cache", *places.values(), checkout, other, tmp_path / "scratch"]
    assert sorted(mounts) == sorted([*(f"{each}:{each}" for each in needed), "/more:/more:ro"])
    assert srun[-4:-2] == ["bash", "-c"] and srun[-1] == str(run.path)
    assert seen_by_srun(programs)["PYTHONPATH"].split(":")[0] == str(checkout)
    assert not any("PYTHONPATH" in line for line in setup(Environment()))
