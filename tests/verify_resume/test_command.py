"""`verify_resume` on a tiny GPT-2 with dropout and the real launcher, and what it refuses before it starts."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from distft.paths import conf_dir
from distft.run import read_json
from tests.support.warm import python

STRATEGIES = sorted(path.stem for path in (conf_dir() / "strategy").glob("*.yaml"))
SETTINGS = """
model=gpt2 model.tiny=true model.tiny_architecture.resid_pdrop=0.1 model.tiny_architecture.attn_pdrop=0.1
model.tiny_architecture.embd_pdrop=0.1 eval.every_steps=2 train.epochs=null train.max_steps=8 train.global_batch_size=8
train.micro_batch_size=2 optimizer.lr=1e-3 checkpoint.every_steps=2 launcher.processes_per_node=2
""".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("train", 29), ("held-out", 11)):
        rows = [{"prompt": f"{name} {i} and {i} is", "completion": str(2 * i)} for i in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"data.train={folder / 'train.jsonl'}", f"data.eval={folder / 'held-out.jsonl'}", f"cache_dir={folder}"]


def verify(*arguments: str) -> tuple[int, str]:
    command = [python(), "-m", "distft.verify_resume", *SETTINGS, *arguments]
    environment = os.environ | {"COLUMNS": "200"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_verify_resume_kills_resumes_and_proves_equality(data, tmp_path: Path):
    code, said = verify(
        *data, "train.max_steps=4", "train.deterministic=true", "kills=[save]", "at=[4]", f"out={tmp_path / 'v'}"
    )
    assert code == 0 and said.count("bit-equal") == 7, said
    assert "rank 0 killed in save of step 4" in said and "resumed from steps 2" in said
    effective = [read_json(tmp_path / "v" / name / "effective.json")["determinism"] for name in ("straight", "killed")]
    assert all(each["deterministic_algorithms"] and each["cudnn_deterministic"] for each in effective)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_resumes_bit_equal(data, tmp_path: Path, strategy: str):
    settings = ["strategy.shard_size=1"] if strategy == "hsdp" else []
    kills = ["kills=[accumulation,save,evaluation,step,save]", "at=[3,4,4,5,6]"]
    code, said = verify(*data, f"strategy={strategy}", *settings, *kills, f"out={tmp_path / 'v'}")
    assert code == 0 and said.count("bit-equal") == 7, said


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(3))
def test_random_kills_of_saves_in_the_background_are_bit_equal(data, tmp_path: Path, seed: int):
    more = ["checkpoint.background=true", "train.deterministic=true", "strategy=fsdp", f"seed={seed}", "kills=8"]
    code, said = verify(*data, *more, f"out={tmp_path / 'v'}")
    assert code == 0 and said.count("bit-equal") == 7, said


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_another_layout_continues_with_equal_rows_and_losses(data, tmp_path: Path):
    """Dropout masks belong to a layout: without dropout the numbers are the same up to rounding."""
    none = [f"model.tiny_architecture.{part}_pdrop=0.0" for part in ("resid", "attn", "embd")]
    kills = ["kills=[step,accumulation]", "at=[3,7]", "then=[strategy=zero2,launcher.processes_per_node=1]"]
    code, said = verify(*data, *none, *kills, f"out={tmp_path / 'v'}")
    assert code == 0 and "the same in every step" in said and said.count("within 2e-06") == 3, said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "reported"),
    [
        ("kills=[acumulation]", "Did you mean accumulation?"),
        ("kills=0", "kills=0: is not a number of kills"),
        ("kills=[evaluation]", "kills=[evaluation]: this run has no evaluation"),
        ("at=[0]", "at=[0]: is not a list of steps. Try: at=[2,4]"),
        ("at=[2,4]", "at=[2,4] has 2 steps for 3 kills, [accumulation,step,save]"),
        ("at=[4,3,4]", "at=[4,3,4]: later kills come at later steps. Try: at=[3,4,4]"),
        ("at=[1,2,3]", "at=[1,2,3]: step 3 has no save. Try: 2"),
        ("then=[optimizer.lr=0.5]", "is another run, not another layout of it. Try: strategy, launcher"),
        ("then={a: b}", "is not a list of overrides. Try: then=[strategy=zero2]"),
        ("checkpoint.every_steps=null", "Try: checkpoint.every_steps=2"),
        ("checkpoint.resume=never", "checkpoint.resume=never: the killed run resumes its own. Try: auto"),
        ("out=.", "exists already. Try: out="),
        ("kils=3", "kils"),
    ],
)
def test_a_run_that_cannot_be_verified_is_refused_first(data, tmp_path, capsys, argument: str, reported: str):
    from distft.config import command
    from distft.verify_resume.__main__ import main

    overrides = [text for text in SETTINGS if not text.startswith(("eval.", argument.partition("=")[0] + "="))]
    ready = [text for text in data if not text.startswith("data.eval")]
    with pytest.raises(SystemExit) as end:
        command(main, [*overrides, *ready, "data.eval=null", f"runs_dir={tmp_path}", argument])
    assert end.value.code == 2
    assert reported in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_help_lists_the_own_keys():
    done = subprocess.run([python(), "-m", "distft.verify_resume", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert re.findall(r"^  (kills|at|then|out)=? ", done.stdout, re.MULTILINE) == ["kills", "at", "then", "out"]
