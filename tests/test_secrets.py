"""Twenty secrets, in variables, in an exception and in addresses, appear in no file and on no screen."""

import json
import os
import random
import string
from pathlib import Path

import pytest

from distft.runtime.environment import has_secret, redact
from tests.launch.test_restarts import launch

RANDOM = random.Random(0)


def drawn(count: int, letters: str = string.ascii_letters + string.digits) -> str:
    return "".join(RANDOM.choice(letters) for _ in range(count - 1)) + "7"


HEX = "0123456789abcdef"
VARIABLES = {
    "HF_TOKEN": "hf_" + drawn(34),
    "WANDB_API_KEY": drawn(40, HEX),
    "AWS_SECRET_ACCESS_KEY": drawn(40),
    "AWS_SESSION_TOKEN": drawn(80),
    "GITHUB_TOKEN": "ghp_" + drawn(36),
    "OPENAI_API_KEY": "sk-" + drawn(48),
    "DATABASE_PASSWORD": drawn(16),
    "SLURM_JWT_AUTH": drawn(60),
    "MLFLOW_TRACKING_PASSWORD": drawn(14),
    "COMET_API_KEY": drawn(25),
}
SAID = {  # in no variable: what a library read from a file of its own
    "hf": "hf_" + drawn(34),
    "github": "gho_" + drawn(36),
    "fine grained": "github_pat_" + drawn(60),
    "aws": "AKIA" + drawn(16, string.ascii_uppercase + string.digits),
    "bearer": drawn(40),
    "named": drawn(24),
    "json": drawn(24),
    "url": drawn(18),
    "jwt": f"eyJ{drawn(20)}.{drawn(40)}.{drawn(20)}",
    "slack": "xoxb-" + drawn(30),
}
ALL = [*VARIABLES.values(), *SAID.values()]


def words() -> str:
    said = SAID
    lines = [f"401 for token {said['hf']} and {said['github']}, {said['fine grained']}"]
    lines += [f"Authorization: Bearer {said['bearer']}", f"api_key={said['named']} {said['aws']}"]
    lines += [json.dumps({"password": said["json"]}), f"cloning https://me:{said['url']}@example.org/x.git"]
    lines += [f"{said['jwt']} {said['slack']}", *(f"{name} is {value}" for name, value in VARIABLES.items())]
    return "\n".join(lines)


def test_each_is_blanked_and_the_text_around_it_stays():
    assert len(set(ALL)) == 20
    text = redact(words(), VARIABLES)
    assert not [secret for secret in ALL if secret in text]
    for part in ("401 for token ***", "Authorization: Bearer ***", "api_key=***", "https://***@example.org/x.git"):
        assert part in text
    assert "WANDB_API_KEY is <WANDB_API_KEY>" in text


@pytest.mark.parametrize(
    "text",
    [
        "model.revision=4f2b8c1d9e0a7f6b5c4d3e2f1a0b9c8d7e6f5a4b", "num_memory_tokens=4096", "tokens: 123456789012345",
        "the token 'function_definition_12' is special", "step-00000012/rank-00000.safetensors", "sk-learn", "hf_hub",
        "KeyError: 'layers.0.self_attn.k_proj.weight'", "https://example.org/a@b",
    ],
)  # fmt: skip
def test_ordinary_text_stays_as_it_is(text: str):
    assert redact(text, {}) == text and not has_secret(text)


@pytest.mark.slow
def test_no_secret_in_an_error_reaches_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Config, logs, error files, metrics, trackers, and what the launch prints."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SAYS", str(tmp_path / "says"))
    (tmp_path / "says").write_text(words())
    (tmp_path / "out").mkdir()
    settings = ("train.max_steps=4", "checkpoint.every_steps=1", "tracker=tensorboard")
    done = launch(tmp_path / "out", "secret", "secret:0:3:1", *settings)
    assert done.code == 1 and "401 for token ***" in done.stderr, "the error is reported all the same"
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert any(file.name == "rank-0.log" for file in files) and any("tfevents" in file.name for file in files)
    found = [(secret[:6], file) for file in files for secret in ALL if secret.encode() in file.read_bytes()]
    assert not found and not [secret for secret in ALL if secret in done.stderr]


@pytest.mark.slow
def test_a_token_in_the_config_is_refused_first(tmp_path: Path):
    for secret in (SAID["hf"], f"https://me:{SAID['url']}@example.org/x"):
        done = launch(tmp_path, "refused", "", "train.max_steps=3", "tracker=wandb", f"tracker.entity={secret}")
        assert done.code == 2 and "tracker.wandb.entity: its value looks like a secret" in done.stderr
        assert secret not in done.stderr and not done.run.path.exists()
    assert not os.environ.get("FAULT")
