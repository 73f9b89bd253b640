"""`distft runs compare` and `diff`: what runs were made of, and what came of them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from distft.config import ConfigError
from distft.run import RunFolder, write_json
from distft.runs.__main__ import main
from tests.report.conftest import eval_row, make_run, train_row

__all__ = ["make_run"]  # a fixture


@pytest.fixture
def two(make_run: Callable[..., RunFolder], tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    """Two runs: the second with another optimizer and rate, other rows, another package, and a lower loss."""
    first, second = make_run(), RunFolder(tmp_path / "runs" / "second")
    shutil.copytree(first.path, second.path)
    text = second.config.read_text().replace("optimizer=adamw", "optimizer=sgd").replace("lr: 0.0001", "lr: 0.01")
    second.config.write_text(text.replace("torch.optim.AdamW", "torch.optim.SGD"))
    rows = [eval_row(0, 2.5), train_row(1), eval_row(8, 1.25)]
    second.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    plan = second.read_plan()
    second.write_plan(replace(plan, rows=120, world=4, reads={"data": "other"}, model_hash="0123456789ab"))
    write_json(second.environment, {"packages": {"torch": "2.14.0", "new": "1.0"}, "host": "node-1"})
    return first, second


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_compare_shows_settings_that_differ_and_the_best_result(
    two: tuple[RunFolder, RunFolder], capsys: pytest.CaptureFixture[str]
):
    first, second = two
    text = " ".join(output(capsys, "compare", str(first.path), f"run={second.path}").split())
    assert "a run ┃ second" in text
    assert "optimizer.lr │ 0.0001 │ 0.01" in text and 'optimizer │ "adamw" │ "sgd"' in text
    assert "held-out loss │ 2.5 → 1.5 │ 2.5 → 1.25 *" in text and "*: the best" in text
    assert "train.precision" not in text and "held-out rows" not in text, "they are the same"


def test_compare_as_json(two: tuple[RunFolder, RunFolder], capsys: pytest.CaptureFixture[str]):
    found = json.loads(output(capsys, "compare", *(str(run.path) for run in two), "--json"))
    assert [each["run"] for each in found] == [str(run.path) for run in two]
    assert [each["settings"]["optimizer.lr"] for each in found] == [1e-4, 0.01]
    assert [each["settings"]["optimizer"] for each in found] == ["adamw", "sgd"]
    assert [each["metrics"]["loss"] for each in found] == [{"before": 2.5, "after": x} for x in (1.5, 1.25)]
    assert {each["state"] for each in found} == {"completed"}


def test_diff_names_settings_rows_weights_and_packages(
    two: tuple[RunFolder, RunFolder], capsys: pytest.CaptureFixture[str]
):
    found = json.loads(output(capsys, "diff", *(str(run.path) for run in two), "--json"))
    assert found == {
        "settings": ["optimizer: adamw -> sgd", "optimizer.lr: 0.0001 -> 0.01"],
        "content": [
            "training rows: 100 -> 120",
            "weights of the base model: a random instance -> 0123456789",
            "processes: 2 -> 4",
        ],
        "environment": ["new: none -> 1.0", "torch: 2.13.0 -> 2.14.0"],
    }
    text = output(capsys, "diff", *(str(run.path) for run in two))
    assert "settings\n  optimizer: adamw -> sgd\n  optimizer.lr: 0.0001 -> 0.01\n" in text


def test_diff_of_a_copy_finds_nothing(two: tuple[RunFolder, RunFolder], capsys: pytest.CaptureFixture[str]):
    first, _ = two
    copied = RunFolder(first.path.with_name("moved"))
    shutil.copytree(first.path, copied.path)
    copied.config.write_text(copied.config.read_text().replace("name: a run", "name: moved"))
    assert "nothing differs but the place" in output(capsys, "diff", str(first.path), str(copied.path))


def test_names_are_looked_up_in_runs_dir(
    two: tuple[RunFolder, RunFolder], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    folder = two[0].path.parent
    monkeypatch.chdir(folder.parent)
    assert "a run ┃ second" in " ".join(output(capsys, "compare", "a run", "second").split())
    monkeypatch.chdir("/")
    text = output(capsys, "compare", "a run", "second", f"runs_dir={folder}")
    assert "a run ┃ second" in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (["compare"], r"run is missing: a run's folder.* Try: distft runs compare NAME NAME"),
        (["compare", "a"], r"a: compare takes 2 runs. Try: distft runs compare a NAME"),
        (["diff", "a", "b", "c"], r"a b c: diff takes 2 runs"),
        (["list", "a"], r"a: list takes no runs"),
        (["show", "a", "yes=true"], r"yes=true: there is no such key. Allowed: run, runs_dir"),
        (["stop", "a", "--json"], r"--json: stop prints no JSON. Allowed: list, show, compare, diff, du"),
        (["show", "--jsn"], r"--jsn: write key=value"),
    ],
)
def test_arguments_that_do_not_fit_the_verb(arguments: list[str], rule: str):
    with pytest.raises(ConfigError, match=rule):
        main(arguments)
