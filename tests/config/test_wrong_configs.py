"""Wrong configs are refused with the key, its value and a suggestion, and without a traceback."""

import subprocess
import sys

import pytest

from distft.config import command, compose
from tests.support.cost import seconds_of_children

WRONG: list[tuple[str, str, str]] = [
    # overrides | key and value as the user wrote them | nearest
    ("train.max_stepss=3", "train.max_stepss=3", "train.max_steps"),
    ("trian.max_steps=3", "trian.max_steps=3", "train.max_steps"),
    ("lr=1e-4", "lr=1e-4", "optimizer.lr"),
    ("optimizer.learning_rate=1e-4", "optimizer.learning_rate=1e-4", "optimizer.lr"),
    ("strategy.layuot=ddp", "strategy.layuot=ddp", "strategy.layout"),
    ("eval.early_stopping.patients=3", "eval.early_stopping.patients=3", "eval.early_stopping.patience"),
    ("+train.foo=1", "train.foo=1", "train.foo is not a key. --help lists them"),
    ("model.tiny_architecture.hiden_size=32", "model.tiny_architecture.hiden_size=32", "hidden_size"),
    ("train=5", "train=5", "train.max_steps"),
    ("strategy=fdsp", "strategy=fdsp", "fsdp"),
    ("strategy=FSDP", "strategy=FSDP", "fsdp"),
    ("modle=gpt2", "modle=gpt2", "model"),
    ("model=llama3-8b", "model=llama3-8b", "llama3_8b"),
    ("model=org/name", "model=org/name", " Try: model.path=org/name"),
    ("model=~/mine", "model=~/mine", " Try: model.path=~/mine"),
    ("data=/rows.jsonl", "data=/rows.jsonl", " Try: data.train=/rows.jsonl"),
    ("launcher=./site.yaml", "launcher=./site.yaml", " Try: launcher.profile=./site.yaml"),
    ("run=runs/first", "run=runs/first", "Try: name=first with its settings, or config=runs/first/config.yaml"),
    ("--jsno", "--jsno", "is not an option of this command. Did you mean --json, of check"),
    ("--json=1", "--json=1", "Did you mean --json, of check"),
    ("tracker=null", "tracker=null", "none"),
    ("experiment=laptop", "experiment=laptop", "laptop_demo"),
    ("train.max_steps=many", "train.max_steps=many", "a whole number of at least 1, or null."),
    ("train.max_steps=2.6", "train.max_steps=2.6", "3"),
    ("train.max_steps=0", "train.max_steps=0", "1"),
    ("train.micro_batch_size=true", "train.micro_batch_size=true", "4"),
    ("train.precision=fp16", "train.precision=fp16", "bf16"),
    ("model.attention=flex_attention", "model.attention=flex_attention", "model.attention=sdpa"),
    ("train.compile=true strategy=zero3", "train.compile=true", "strategy=fsdp"),
    ("train.compile=max-autotune", "train.compile=max-autotune", "true"),
    ("train.activation_checkpointing=true", "train.activation_checkpointing=true", "full"),
    ("optimizer.lr=-1", "optimizer.lr=-1", "2e-05"),
    ("optimizer.lr=high", "optimizer.lr=high", "2e-05"),
    ("optimizer.betas=[0.9,1.1]", "optimizer.betas=[0.9, 1.1]", "[0.9,0.999]"),
    ("seed=-1", "seed=-1", "0"),
    ("train.max_steps=none", "train.max_steps=none", "Did you mean train.max_steps=null?"),
    ("max_step=3", "max_step=3", "Did you mean train.max_steps?"),
    ("data.foo=3", "data.foo=3", "is not a key. --help lists them"),
    ("data.eval=1.5", "data.eval=1.5", "0.05"),
    ("data.max_bad_fraction=2", "data.max_bad_fraction=2", "1"),
    ("data.format=chat", "data.format=chat", "auto"),
    ("data.train=null", "data.train=null", "data.train=..."),
    ("data.train=row.jsonl", "data.train=row.jsonl", "rows.jsonl"),
    ("data.train=[rows.jsonl,rowss.jsonl]", "data.train=rowss.jsonl", "rows.jsonl"),
    ("data.eval=missing/rows.jsonl", "data.eval=missing/rows.jsonl", "rows.jsonl"),
    ("data.train=rows.jsonl,more.jsonl", "data.train=rows.jsonl,more.jsonl", "[rows.jsonl,more.jsonl]"),
    ("checkpoint.resume=atuo", "checkpoint.resume=atuo", "auto"),
    ("model.tokenizer=./nowhere", "model.tokenizer=./nowhere", "a name in"),
    ("optimizer._target_=os.system", "optimizer._target_=os.system", "trust=[os.]"),
    ("optimizer._target_=torch.optim.AdanW", "optimizer._target_=torch.optim.AdanW", "torch.optim.AdamW"),
    ("optimizer._target_=torch.optim.SGD optimizer.betas=[0.9,0.99]", "optimizer.betas", "is not a key"),
    ("~strategy.layout", "strategy.layout", "strategy.layout=..."),
    ("launcher=slrum", "launcher=slrum", "slurm"),
    ("launcher.nodes=2-4", "launcher.nodes=2-4", "launcher=slurm"),
    ("launcher.nodes=two", "launcher.nodes=two is not a whole number of at least 1 or 2-4", "1"),
    ("launcher=slurm launcher.nodes=0-2", "launcher.nodes=0-2", "1"),
    ("launcher=slurm launcher.time=tomorrow", "launcher.time=tomorrow", "null"),
    ("launcher=slurm launcher.time=12:00:0", "launcher.time=12:00:0", "null"),
    ("launcher=slurm launcher.memory=200GB", "launcher.memory=200GB", "null"),
    ("launcher=slurm launcher.gpus_per_node=four", "launcher.gpus_per_node=four", "null"),
    ("launcher=slurm launcher.environment=conda", "launcher.environment=conda", "venv, module or container"),
    ("launcher=slurm launcher.warning_seconds=5", "launcher.warning_seconds=5", "30"),
    ("launcher=slurm launcher.partion=gpu", "launcher.partion=gpu", "launcher.partition"),
    ("hydra.run.dir=/tmp/x", "hydra.run.dir=/tmp/x", "runs_dir"),
    ("--fast", "--fast", "key=value"),
    ("train.max_steps", "train.max_steps", "train.max_steps=..."),
    (
        "train.global_batch_size=18 train.micro_batch_size=2 launcher.processes_per_node=2",
        "train.global_batch_size=18 is not a multiple of 4 (= 2 processes x train.micro_batch_size=2)",
        "16 or 20",
    ),
    ("name=a/b", "name=a/b", "a-b"),
    ("trust=mylab", "trust=mylab", "[mylab]"),
]


def refusal(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Returns the error lines of a command whose config is wrong."""

    def main(argv: list[str]) -> int:
        compose(argv)
        return 0

    with pytest.raises(SystemExit) as caught:
        command(main, overrides)
    said = capsys.readouterr().err
    assert caught.value.code == 2, said
    assert "Traceback" not in said
    return [line.strip() for line in said.splitlines()[1:]]


def test_forty_different_wrong_configs_are_listed():
    assert len({overrides for overrides, _, _ in WRONG}) == len(WRONG) >= 40


def test_the_base_of_the_wrong_configs_is_valid(right: list[str]):
    compose(right)


@pytest.mark.parametrize(("overrides", "written", "suggestion"), WRONG, ids=[row[0] for row in WRONG])
def test_a_wrong_config_is_refused_with_its_key(
    overrides: str, written: str, suggestion: str, right: list[str], capsys: pytest.CaptureFixture[str]
):
    errors = refusal([*right, *overrides.split(" ")], capsys)
    assert any(written in error and suggestion in error.partition(written)[2] for error in errors), errors


def test_all_errors_come_at_once(right: list[str], capsys: pytest.CaptureFixture[str]):
    together = [
        "strategy=fdsp",
        "--fast",
        "lr=1",
        "train.max_steps=0",
        "data.eval=x.jsonl",
        "train.micro_batch_tokens=9",
    ]
    errors = refusal([*right, *together], capsys)
    assert len(errors) == len(together)
    assert all(error.startswith(word.partition("=")[0]) for word, error in zip(together, errors, strict=True)), errors


@pytest.mark.parametrize("overrides", ["train.max_stepss=3", "optimizer._target_=torch.optim.AdanW"])
@pytest.mark.slow
def test_a_command_refuses_in_5_cpu_seconds_with_exit_code_2(overrides: str, right: list[str]):
    line = [sys.executable, "-m", "distft.plan", *right, overrides]
    before = seconds_of_children()
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert seconds_of_children() - before < 5
    assert done.returncode == 2
    assert overrides in done.stderr and "Traceback" not in done.stderr
