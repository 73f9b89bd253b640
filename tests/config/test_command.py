"""Every command answers --help, and turns a wrong config into lines and exit code 2."""

import json
from pathlib import Path

import pytest

from distft.config import ConfigError, command, help_text
from distft.config.command import errors_of, errors_text, find_run
from distft.config.help import part_text
from distft.config.key import leaves
from distft.config.schema import KEYS
from distft.paths import conf_dir
from distft.run import read_yaml


def exit_code(main, argv: list[str]) -> object:
    with pytest.raises(SystemExit) as caught:
        command(main, argv)
    return caught.value.code


def test_the_exit_code_is_mains():
    assert exit_code(lambda argv: len(argv), ["a", "b", "c"]) == 3


def test_a_wrong_config_is_code_2_and_every_message_a_line(capsys: pytest.CaptureFixture[str]):
    def main(argv: list[str]) -> int:
        raise ConfigError(["one=1 is wrong", "two=2 is wrong", "one=1 is wrong"])

    assert exit_code(main, []) == 2
    assert capsys.readouterr().err.splitlines() == [
        "distft: 2 errors in the configuration",
        "  one=1 is wrong",
        "  two=2 is wrong",
    ]


def test_errors_are_json_on_stdout_where_json_is_wanted(capsys: pytest.CaptureFixture[str]):
    def main(argv: list[str]) -> int:
        raise ConfigError(["one=1 is wrong"])

    assert exit_code(main, ["--json"]) == 2
    said = capsys.readouterr()
    assert json.loads(said.out) == {"errors": ["one=1 is wrong"]} and "  one=1 is wrong\n" in said.err


@pytest.mark.parametrize(
    "messages", [["a=1 is wrong"], ["a: is made of two\n    x: 1 -> 2\n    y: 2 -> 3", "b: wrong"]]
)
def test_errors_are_read_back_from_what_was_printed(messages: list[str]):
    output = f"preparing: 12 rows\n{errors_text(messages)}\ndistft.prepare failed with code 2\n"
    assert errors_of(output.splitlines()) == messages
    assert errors_of(["preparing: 12 rows"]) == []


@pytest.mark.parametrize(
    "words", [["optimizer.lr", "=", "1e-5"], ["optimizer.lr=", "1e-5"], ["optimizer.lr", "=1e-5"]], ids=" ".join
)
def test_spaces_around_the_equals_sign_are_one_error(words: list[str], capsys: pytest.CaptureFixture[str]):
    assert exit_code(lambda argv: 0, ["name=a", *words, "seed=1"]) == 2
    [_, line] = capsys.readouterr().err.splitlines()
    assert line == "  optimizer.lr = 1e-5: a setting has no spaces around its =. Try: optimizer.lr=1e-5"


@pytest.mark.parametrize("words", [["data.eval=", "name=a"], ["list", "name="], ["plan=", "--json"], ["a=b=", "c"]])
def test_an_empty_value_is_no_space(words: list[str]):
    assert exit_code(lambda _: 7, words) == 7


def test_a_run_is_offered_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run in ./runs, and a job of a sweep; and otherwise the command that lists runs."""
    monkeypatch.chdir(tmp_path)
    for run in (tmp_path / "runs" / "first", tmp_path / "runs" / "rates" / "000-lr_1"):
        run.mkdir(parents=True)
        (run / "config.yaml").touch()
    offered = {"first": f"Did you mean {tmp_path}/runs/first?", "runs/frist": f"Did you mean {tmp_path}/runs/first?"}
    offered["runs/rates"] = f"Try: {tmp_path}/runs/rates/000-lr_1, or another one in it"
    offered["elsewhere/x"] = "Try: distft runs, which lists those of ./runs"
    for value, end in offered.items():
        with pytest.raises(ConfigError) as caught:
            find_run(value)
        assert caught.value.messages == [f"run={value}: holds no run (config.yaml and plan.json). {end}"]


def test_help_is_answered_before_anything_runs(capsys: pytest.CaptureFixture[str]):
    def main(argv: list[str]) -> int:
        raise AssertionError

    assert exit_code(main, ["train.max_steps=3", "--help"]) == 0
    assert "usage: python -m distft." in capsys.readouterr().out


@pytest.mark.parametrize(
    "file", sorted(conf_dir().glob("*/*.yaml")), ids=lambda file: f"{file.parent.name}={file.stem}"
)
def test_help_of_a_word_has_its_keys_with_their_values(file: Path, capsys: pytest.CaptureFixture[str]):
    group, word = file.parent.name, file.stem
    assert exit_code(lambda argv: 1, [f"{group}={word}", "--help"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    values = dict(leaves(read_yaml(file) or {}))
    shown_values = {line.split("  ")[1].partition("=")[0] for line in lines}
    named = {name for name in values if "architecture." not in name and name.rpartition(".")[2][0] != "_"}
    prefix = "" if group == "experiment" else f"{group}."
    assert first == f"{group}={word}"
    assert {f"{prefix}{name}" for name in named - {"defaults"}} <= shown_values


def test_help_of_a_word_has_its_target_and_the_keywords_of_that():
    text = part_text(["--help", "optimizer=sgd", "schedule=wsd", "seed=1", "optimizer=adamm"])
    sgd, wsd = text.split("\n\n")
    assert "  calls torch.optim.SGD\n  optimizer.lr=0.001 " in sgd and "\n  optimizer.maximize" in sgd
    assert "schedule.decay_steps=0.1 " in wsd and "a number of at least 0" in wsd
    assert "\n  tuning=lora\n" in part_text(["experiment=sft_lora"]), "what a recipe chooses"
    assert part_text(["--help", "seed=1"]) == ""


def test_help_has_the_defaults():
    lines = {line.split()[0]: line for line in help_text("launch").splitlines() if line.startswith("  ")}
    assert lines["train.max_grad_norm"].endswith("; default 1.0)") and lines["name"].endswith("; default null)")
    assert lines["optimizer="].endswith(" (default adamw)") and lines["experiment="].endswith(" sft_lora")
    assert "default" not in lines["optimizer.lr"], "its word has it"


def test_help_names_every_key_and_every_choice():
    text = help_text("launch", [("own", "key")])
    assert "python -m distft.launch" in text and "own" in text and "config=FILE.yaml" in text
    assert all(f"  {key.path} " in text for key in KEYS)
    assert all(word in text for word in ("zero3_offload", "laptop_demo", "llama3_70b"))
