"""The environment of a run is recorded, without secrets.

Nodes with other software are refused on all nodes, and each rank's environment is recorded.
"""

import json
from pathlib import Path

import pytest

from distft.runtime.environment import describe, looks_secret, passed_on, redact, secrets
from tests.support.ranks import run_ranks

CANARY = "canary-5f3a9c"
CPUINFO = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "my_password", "DB_PASS", "APIKEY"],
)
def test_names_of_secrets_are_recognized(name):
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name",
    ["num_memory_tokens", "TOKENIZERS_PARALLELISM", "KEYBOARD", "HF_HUB_OFFLINE", "DS_ACCELERATOR", "monkey_size"],
)
def test_ordinary_names_are_not_taken_for_secrets(name):
    assert not looks_secret(name)


@pytest.mark.slow
def test_no_secret_reaches_the_record():
    variables = {
        "HF_TOKEN": CANARY,
        "WANDB_API_KEY": CANARY + "w",
        "AWS_SESSION_TOKEN": CANARY + "a",
        "SLURM_JOB_COMMENT": f"uses {CANARY}",
        "HF_ENDPOINT": "https://me:pass-word@hub.example/x",
        "NUM_MEMORY_TOKENS": "4",
        "HF_NUM_MEMORY_TOKENS": "4",
        "HOME_ADDRESS": "not listed",
    }
    text = json.dumps(describe(variables))
    assert CANARY not in text and "pass-word" not in text and "not listed" not in text
    recorded = json.loads(text)["variables"]
    assert recorded["HF_TOKEN"] == "***"
    assert recorded["SLURM_JOB_COMMENT"] == "uses <HF_TOKEN>"
    assert recorded["HF_ENDPOINT"] == "https://***@hub.example/x"
    assert recorded["HF_NUM_MEMORY_TOKENS"] == "4"


@pytest.mark.slow
def test_machine_packages_and_commit_are_on_record():
    record = describe({})
    assert record["packages"]["torch"] and record["packages"]["hydra-core"]
    assert record["hardware"]["cores"] >= 1 and record["hardware"]["memory_gib"] > 0 and record["hardware"]["cpu"]
    assert record["git"] is None or len(record["git"]["commit"]) == 40
    assert record["python"].count(".") == 2 and record["host"] and record["platform"]


@pytest.mark.slow
@pytest.mark.skipif(" avx2 " not in CPUINFO, reason="no x86 CPU with AVX2")
def test_the_vector_units_of_a_cpu_are_recorded_with_its_name():
    """The same name has been seen on machines whose fp32 products differ threefold."""
    flags = CPUINFO.partition("flags")[2].partition("\n")[0].split()
    name, _, units = describe({})["hardware"]["cpu"].rpartition(" (")
    assert name and "avx2" in units
    assert ("avx512f" in units.rstrip(")").split(", ")) == ("avx512f" in flags)


def test_short_values_are_not_blanked():
    variables = {"SOME_KEY": "a", "OTHER_TOKEN": "default"}
    assert secrets(variables) == {}
    assert redact("a default", variables) == "a default"


def test_of_two_secrets_the_longer_is_blanked_first():
    assert redact("x 12345678-long y", {"A_KEY": "12345678", "B_KEY": "12345678-long"}) == "x <B_KEY> y"


def test_a_job_inherits_only_listed_variables():
    inherited = ["PATH", "HOME", "LC_TIME", "LD_LIBRARY_PATH", "HF_HOME", "NCCL_DEBUG", "OMP_NUM_THREADS", "SLURM_CONF"]
    secret = ["HF_TOKEN", "WANDB_API_KEY", "HUGGINGFACE_HUB_TOKEN", "SLURM_JWT_KEY", "LMOD_SECRET"]
    of_this_machine = ["SLURM_JOB_ID", "SLURM_CONF_SERVER", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"]
    of_this_machine += ["MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"]
    unknown = ["MY_OWN", "XPATH", "SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS"]
    names = [*secret, *inherited, *of_this_machine, *unknown]
    assert passed_on(dict.fromkeys(names, "value")) == inherited


@pytest.mark.slow
def test_every_ranks_variables_are_on_record_and_no_secret() -> None:
    first, second = run_ranks(2, "tests.support.compare_nodes")
    assert first == second
    assert first["variables"]["NCCL_DEBUG"] == "of rank 0" and first["software"]["torch"]
    assert [rank["variables"] for rank in first["ranks"]] == [{}, {"NCCL_DEBUG": "of rank 1"}]
    assert "secret of eight" not in str(first)


@pytest.mark.slow
def test_a_node_with_another_version_is_named_on_all(tmp_path: Path) -> None:
    other = tmp_path / "peft-0.0.1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.0.1\n")
    first, second = run_ranks(2, "tests.support.compare_nodes", str(tmp_path))
    assert first == second
    assert first.startswith("rank 1 on ") and " has peft 0.0.1, rank 0 on " in first and "Try: " in first
