"""A run with dropout that is killed in every phase is bit-equal; noise of a device is measured and not a failure; a
fault is detected, with noise and without.

The processes are forked from one that has imported torch, so that 30 attempts take no time; the kills are real.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from distft.replay import described
from distft.run import RunFolder, read_json
from distft.verify_resume.runs import read_fed
from tests.support.rows import write_sums
from tests.support.warm import python

pytestmark = pytest.mark.slow

NOISE, SEED = "loss.noise=1e-6", "loss.own_seed=true"
ORDER = "planted.restart_order"
ONCE = ["kills=[step]", "at=[3]"]
MOMENTS, STEPS = ["accumulation", "save", "evaluation", "step", "save"], [3, 4, 4, 5, 6]
CASES = {
    "every moment": {
        "overrides": [
            "launcher.processes_per_node=2",
            "train.global_batch_size=8",
            "train.max_steps=8",
            "eval.every_steps=2",
            f"kills=[{','.join(MOMENTS)}]",
            f"at=[{','.join(map(str, STEPS))}]",
        ]
    },
    "noise": {"overrides": [*ONCE, NOISE]},
    "seed": {"overrides": [*ONCE, SEED]},
    "seed and noise": {"overrides": [*ONCE, SEED, NOISE]},
    "order and noise": {"overrides": [*ONCE, NOISE], "work": ORDER},
    "anew": {"overrides": [*ONCE, "checkpoint.every_steps=5"]},
}
SETTINGS = """
model=gpt2 model.tiny=true model.tiny_architecture.resid_pdrop=0.1 data.eval=0.2 eval.every_steps=3
model.tiny_architecture.attn_pdrop=0.1 model.tiny_architecture.embd_pdrop=0.1 train.epochs=null train.max_steps=5
train.global_batch_size=4 train.micro_batch_size=2 optimizer.lr=1e-3 checkpoint.every_steps=2 trust=[planted.]
launcher._target_=planted.Forked ~launcher.stage ~launcher.stage_dir
~launcher.rendezvous ~launcher.jobs_at_once ~launcher.hang_seconds ~launcher.hang_seconds_outside ~launcher.restarts
launcher.processes_per_node=1
loss._target_=planted.Loss ~loss.label_smoothing
""".split()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("proofs")


@pytest.fixture(scope="module")
def answers(out: Path) -> dict[str, dict[str, Any]]:
    write_sums(out, 36)
    places = [f"data.train={out / 'rows.jsonl'}", f"cache_dir={out / 'cache'}"]
    command = [python(), "-m", "prove_planted", str(out), json.dumps(CASES), *SETTINGS, *places]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / "answers.json").read_text())


def row(said: str, what: str) -> str:
    """Returns the verdict of a row of the table."""
    return next(line for line in said.splitlines() if re.match(rf"│ {what} ", line)).split("│")[3].strip()


@pytest.mark.soak
def test_with_dropout_a_run_killed_anywhere_is_bit_equal(answers, out: Path):
    """Step 4 crosses the border of the first epoch and is begun four times, on 2 processes that accumulate twice."""
    code, said = answers["every moment"].values()
    assert code == 0 and said.count("bit-equal") == 7 and "once more" not in said, said
    assert "resumed from steps 2, 2, 2, 4, 4" in said
    killed, straight = RunFolder(out / "every moment/killed"), RunFolder(out / "every moment/straight")
    for i, (moment, step) in enumerate(zip(MOMENTS, STEPS, strict=True)):
        death = read_json(killed.logs / f"attempt-{i + 1}/killed.json")
        assert death == {"rank": i % 2, "moment": moment, "step": step}
        assert f"rank {i % 2} killed in {moment} of step {step}" in said
    fed = read_fed(straight)[1]
    assert {key[1:] for key in fed} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    rows = [row for key in sorted(fed) for row in fed[key]]
    assert len(rows) == 64 and 24 < len(set(rows)) < 32


@pytest.mark.soak
def test_a_difference_triggers_a_second_uninterrupted_run(answers, out: Path):
    assert not (out / "every moment/again").exists() and (out / "noise/again").is_dir()


@pytest.mark.soak
def test_noise_is_measured_and_not_a_failure(answers):
    code, said = answers["noise"].values()
    assert code == 0 and "two uninterrupted runs differ by" in said
    for what in ("losses", "gradient norms", "weights", "moments", "held-out losses"):
        assert re.fullmatch(r"within noise \d\.\de-0\d \(floor \d\.\de-0\d\)", row(said, what)), said
    assert row(said, "rows read") == row(said, "learning rates") == "bit-equal"


@pytest.mark.soak
def test_a_restarted_seed_is_caught_by_bit_equality(answers):
    code, said = answers["seed"].values()
    assert code == 1 and "two uninterrupted runs are bit-equal, so resuming changes the run" in said
    assert row(said, "rows read") == "bit-equal"
    assert re.fullmatch(r"step 3: [\d.]+ instead of [\d.]+, \d\.\de-0\d apart", row(said, "losses")), said
    assert row(said, "weights").startswith("parameter ") and row(said, "moments").startswith("exp_avg ")


@pytest.mark.soak
def test_a_restarted_seed_is_caught_above_the_noise(answers):
    code, said = answers["seed and noise"].values()
    assert code == 1 and "two uninterrupted runs differ by" in said
    assert re.fullmatch(r"step 3: .* apart, \d\.\de-0\d allowed", row(said, "losses")), said
    assert row(said, "rows read") == "bit-equal"


@pytest.mark.soak
def test_restarted_rows_are_caught_despite_noise(answers):
    code, said = answers["order and noise"].values()
    assert code == 1
    assert row(said, "rows read") == "step 3: attempt 2 read other rows in micro-batch 0 on rank 0"


@pytest.mark.soak
def test_a_run_that_resumed_nothing_proves_nothing(answers):
    code, said = answers["anew"].values()
    assert code == 1 and "every resume started anew" in said


def test_a_replay_names_the_rows_whose_loss_is_not_finite():
    finite = {"micro_batch": 0, "rank": 0, "loss": "1.5", "is_finite": True, "rows": []}
    row = {"row": 7, "id": "ab", "loss": "nan"}
    wrong = {"micro_batch": 1, "rank": 1, "loss": "nan", "is_finite": False, "rows": [row]}
    step = {"step": 3, "loss": "nan", "grad_norm": "nan", "micro_batches": [finite, wrong]}
    assert described(step)[1:] == ["  micro-batch 1 of rank 1: loss nan", "    row 7 (ab): loss nan"]
    assert described(step | {"micro_batches": [finite]})[1:] == ["  the loss of every micro-batch is finite"]
