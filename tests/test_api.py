"""The Python API composes, launches and opens the runs of the command line; every example runs."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import distft
from distft.api import overrides_of
from distft.config import compose as from_command_line
from distft.config.key import at
from distft.config.overrides import override_of
from distft.run import RunFolder
from tests.support.fake_run import assert_none_left, wait_for_rows
from tests.support.rows import write_sums
from tests.support.warm import python

TINY: dict[str, Any] = {"model.tiny": True}
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
SMALL = ("model.tiny=true", "train.max_steps=2", "launcher.processes_per_node=1", "cache_dir=cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("api"))


def settings(folder: Path) -> dict[str, Any]:
    data = {
        "train": str(folder / "rows.jsonl"),
        "eval": 0.2,
        "fields": {"prompt": "prompt", "completion": "completion"},
    }
    train = {"max_steps": 2, "global_batch_size": 4}
    places = {"runs_dir": str(folder / "runs"), "cache_dir": str(folder / "cache")}
    launcher = {"processes_per_node": 1}
    return {"model": "gpt2", **TINY, "data": data, "train": train, "launcher": launcher, **places}


@pytest.mark.slow
def test_settings_compose_as_the_command_line_does(folder: Path):
    config = distft.compose(
        "seed=3", **settings(folder), optimizer={"lr": 1e-3, "betas": [0.9, 0.99]}, strategy="zero2"
    )
    typed = ["model=gpt2", "model.tiny=true", f"data.train={folder}/rows.jsonl", "data.eval=0.2", "train.max_steps=2"]
    typed += ["data.fields={prompt: prompt, completion: completion}", "train.global_batch_size=4", "strategy=zero2"]
    typed += [f"runs_dir={folder}/runs", f"cache_dir={folder}/cache", "optimizer.lr=1e-3", "optimizer.betas=[0.9,0.99]"]
    same = from_command_line([*typed, "launcher.processes_per_node=1", "seed=3"])
    assert isinstance(config, distft.Config)
    assert config.values == same.values and config.choices == same.choices and config.given == same.given
    assert config.optimizer.lr == 1e-3


@pytest.mark.slow
def test_every_wrong_setting_is_reported_at_once():
    with pytest.raises(distft.ConfigError) as caught:
        distft.compose(modle="x", data={"train": "/nowhere.jsonl"}, train={"max_step": 3, "epochs": "many"})
    said = str(caught.value)
    assert all(
        part in said for part in ("modle=x", "/nowhere.jsonl", "Did you mean train.max_steps?", "train.epochs=many")
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[
            ("data.prompt_template", text)
            for text in (
                "a b",
                "2024",
                "it's",
                "a,b",
                "a'b\"c",
                "'q'",
                "[a]",
                "{a:1}",
                " x ",
                "\\",
                "é(1)",
                "#",
            )
        ],
        ("data.ignore_fields", ["a", "b,c", "it's", "2024", "true", "\\'"]),
        ("data.fields", {"prompt": "it's, 'x'", "completion": "a b"}),
        ("data.eval", None),
        ("optimizer.betas", [0.9, 0.95]),
        ("train.compile", True),
        ("optimizer.lr", 1e-10),
    ],
)
def test_a_value_is_read_back_as_it_was_given(folder: Path, key: str, value: Any):
    text = override_of(key, value)
    config = from_command_line(["model=gpt2", "model.tiny=true", f"data.train={folder}/rows.jsonl", text])
    found = at(config.values, key)
    assert found == value and type(found) is type(value), text


@pytest.mark.slow
def test_a_config_is_a_command_line(folder: Path):
    """Also one that was changed, one of a run's file, and one with a loss that the task brings."""
    config = distft.compose(**settings(folder), tracker=["wandb", "tensorboard"], optimizer="sgd")
    for each in (config, config.changed({"optimizer.lr": 0.5, "data.max_length": 67, "name": "it's-2"})):
        composed = from_command_line(overrides_of(each))
        assert composed.values == each.values and composed.choices == each.choices


INTERRUPTED = """
import json, sys
import distft
config = distft.compose(*json.loads(sys.argv[1]), "name=long")
try:
    distft.fine_tune(config)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
def test_an_interrupt_saves_the_run_and_goes_on(folder: Path):
    changes = {"train": {"max_steps": 100_000, "epochs": None, "global_batch_size": 4}}
    texts = overrides_of(distft.compose(**settings(folder) | changes))
    command = [python(), "-m", "tests.support.program", INTERRUPTED, json.dumps(texts)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run = RunFolder(folder / "runs" / "long")
    wait_for_rows(run)
    os.kill(process.pid, signal.SIGINT)
    said, stderr = process.communicate(timeout=240)
    assert said == "interrupted\n", stderr
    assert run.read_status()["state"] == "preempted" and "saved and stopped by you" in stderr
    assert_none_left(run)


def test_a_failed_run_is_an_error_with_its_cause(tmp_path: Path):
    run = distft.Run(tmp_path / "broken")
    error = {"rank": 1, "host": "n1", "type": "OutOfMemory", "message": "2 GiB more", "log": "/logs/rank-1.log"}
    run.path.mkdir()
    run.folder.write_status(state="failed", exit_code=1, error=error)
    failed = distft.RunFailed(run, 1)
    assert str(failed) == "broken: rank 1 on n1: OutOfMemory: 2 GiB more. Log: /logs/rank-1.log"
    assert failed.run.state == "failed" and failed.code == 1
    run.folder.write_status(state="completed", exit_code=0, error=None)
    said = ["broken: export failed: the disk is full", "Try: python -m distft.export"]
    assert str(distft.RunFailed(run, 1, said)).startswith("broken: completed; broken: export failed: the disk is full")
    nothing = distft.Run(tmp_path / "never")
    assert str(distft.RunFailed(nothing, 1, ["distft: no space left"])).startswith(
        "never: distft: no space left. Log: "
    )


@pytest.mark.slow
def test_importing_distft_is_cheap_and_lists_the_api():
    program = "import sys, distft; assert 'yaml' not in sys.modules; print(*distft.__all__); distft.compose"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["Config", "ConfigError", "Run", "RunFailed", "compose", "fine_tune", "open_run"]
    assert set(distft.__all__) <= set(dir(distft))
    with pytest.raises(AttributeError, match="has no attribute 'fine_tnue'"):
        getattr(distft, "fine_tnue")  # noqa: B009  # it is not there


def example(name: str, folder: Path, *words: str) -> str:
    """Returns what an example prints."""
    [file] = [file for file in EXAMPLES if file.stem == name]
    command = [python(), "-m", "tests.support.program", str(file), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def first(folder: Path) -> str:
    return example("fine_tune", folder, "rows.jsonl", *SMALL, "name=example")


@pytest.mark.slow
def test_the_first_example_prints_losses_and_an_answer(first: str, folder: Path):
    assert "held-out loss" in first and "completed" in first and f"{folder}/runs/example/final" in first


@pytest.mark.slow
def test_an_example_compares_with_the_base(first: str, folder: Path):
    said = example("compare_with_base", folder, "runs/example")
    assert "loss: " in said and "difference" in said and said.count(" -> ") > 3


@pytest.mark.slow
def test_an_example_has_a_schedule_of_its_own(folder: Path):
    said = example("own_schedule", folder, "rows.jsonl", *SMALL, "train.max_steps=6", "name=own", "export=false")
    assert "6.67e-06" in said, "a third of the default rate: the first of three warm-up steps"


@pytest.mark.soak
def test_an_example_tries_learning_rates(folder: Path):
    said = example("learning_rates", folder, "rows.jsonl", *SMALL)
    assert "learning rate 1e-05: " in said and "the best is" in said


@pytest.mark.slow
def test_a_run_is_read_exported_and_returned_again(
    first: str, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "executable", python())
    run = distft.open_run(folder / "runs" / "example")
    assert run.state == "completed" and run.plan.steps == 2 and run.name == "example"
    assert [row["step"] for row in run.metrics("train")] == [1, 2] and run.metrics("eval")[0]["step"] == 0
    assert run.final is not None and run.report is not None and run.config.train.max_steps == 2
    assert f"{run.metrics('eval')[-1]['loss']:.3f} nats per token" in first

    config = run.config
    assert distft.fine_tune(config) == run and run.status["attempt"] == 1, "it is complete"
    assert "completed" in capfd.readouterr().err
    with pytest.raises(distft.ConfigError, match=r"was made with another config(.|\n)*optimizer.lr: .* -> 0.5"):
        distft.fine_tune(config.changed({"optimizer.lr": 0.5}))
    with pytest.raises(distft.ConfigError, match="at=bset: no such checkpoint"):
        run.evaluate(at="bset")
    assert "another config" not in capfd.readouterr().err, "it is raised, not printed"
    out = run.export(folder / "again", at="latest")
    assert (out / "model.safetensors").read_bytes() == (run.final / "model.safetensors").read_bytes()


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_pages_name_what_is_there(page: str):
    text = (EXAMPLES[0].parents[1] / page).read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        ast.parse(block)
        assert set(re.findall(r"\bdistft\.(\w+)", block)) <= set(distft.__all__)
        assert all(hasattr(distft.Run, name) for name in re.findall(r"\brun\.(\w+)", block))
    for cell in re.findall(r"^\| (`[^|]*`) \|", text.partition("| of a run |")[2], re.MULTILINE):
        assert all(name in dir(distft.Run) or name == "path" for name in re.findall(r"`(\w+)", cell)), cell


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_is_short_tested_and_says_how_to_run_it(file: Path):
    text = file.read_text()
    assert f'example("{file.stem}"' in Path(__file__).read_text()
    assert len(text.splitlines()) <= 45 and text.startswith(f'"""python examples/{file.name} ')
