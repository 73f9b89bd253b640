"""`distft advise` says which models and methods fit, at what cost, and its settings are those of a plan."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from distft import advise
from distft.advise import LICENCES, METHODS, OWN, Advice, rank
from distft.config import ConfigError, compose
from distft.config.schema import Config
from distft.paths import conf_dir
from distft.plan import make_plan
from distft.plan.hardware import find_hardware
from tests.support.warm import python

MODELS = {path.stem for path in (conf_dir() / "model").glob("*.yaml")}


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a few words of a question", "completion": "and of its answer"}\n' * 4000)
    return [f"data={file}", f"cache_dir={tmp_path}", "data.max_length=1024"]


def advised(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[Advice]:
    assert advise.main([*arguments, "--json"]) == 0
    return [Advice(**row) for row in json.loads(capsys.readouterr().out)]


@pytest.mark.slow
def test_every_model_is_listed_with_every_method(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = advised([*given, "hardware=h100", "price_per_hour=2.5"], capsys)
    assert {(each.model, each.method) for each in found} == {(m, way) for m in MODELS for way in METHODS}
    assert found == sorted(found, key=rank)
    by = {(each.model, each.method): each for each in found}
    assert by["llama3_8b", "lora"].fits and not by["llama3_8b", "lora"].host_gib
    assert by["llama3_8b", "full"].host_gib, "16 bytes for each of 8 billion parameters: 120 GiB"
    assert not by["llama3_70b", "full"].fits and by["llama3_70b", "full"].peak_gib > 79
    small = by["smollm2_135m", "full"]
    assert small.fits and small.hours and small.price == pytest.approx(2.5 * small.hours)
    assert small.source == "HuggingFaceTB/SmolLM2-135M-Instruct" and small.licence == "Apache 2.0"
    config = compose([f"data.train={given[0].removeprefix('data=')}", *given[1:], *small.overrides])
    counted = make_plan(config, accelerators=True).memory[config.choices["strategy"]]
    assert counted["peak"] / 2**30 == pytest.approx(small.peak_gib, abs=0.01)


@pytest.mark.slow
def test_less_memory_leaves_fewer(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    few = advised([*given, "memory_gib=8"], capsys)
    fitting = {(each.model, each.method) for each in few if each.fits and not each.host_gib}
    assert {model for model, method in fitting if method != "qlora"} <= {"smollm2_135m", "gpt2"}
    assert ("mistral_7b", "qlora") in fitting, "half a byte a weight"
    assert all(each.hours is None and each.price is None for each in few)
    eight = advised([*given, "hardware=h100", "processes=8"], capsys)
    assert next(each for each in eight if (each.model, each.method) == ("llama3_8b", "full")).host_gib == 0


def test_every_model_has_a_licence() -> None:
    assert set(LICENCES) == MODELS


def test_keys_of_the_config_are_not_taken_for_its_own() -> None:
    for key in Config.model_fields:
        assert key in OWN or not advise._is_own(key), key
    assert advise._is_own("hadware") and advise._is_own("memory_gb")


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (["hardware=h100"], "data is missing"),
        (["data=files"], "of which memory"),
        (["data=filse", "memory_gib=8"], "Did you mean files"),
        (["data=files", "memory_gib=8", "processes=0"], "processes=0 is not a whole number"),
        (["data=files", "memory_gib=8", "price_per_hour=2"], "Try: hardware=h100"),
        (["data=files", "hardware=h100", "price_per_hour=much"], "price_per_hour=much is not a number"),
    ],
)
def test_wrong_keys_are_answered(wrong: list[str], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        advise.main(wrong)


@pytest.mark.slow
def test_the_table_ends_with_a_command_that_plans(given: list[str]) -> None:
    line = [python(), "-m", "distft.advise", *given, "hardware=rtx4090"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [command] = [line for line in done.stdout.splitlines() if "distft launch" in line]
    overrides = shlex.split(command.partition("distft launch ")[2])
    assert set(given[1:]) < set(overrides), "further keys are part of the run that was planned"
    config = compose(overrides)
    peak = make_plan(config, accelerators=True).memory[config.choices["strategy"]]["peak"]
    assert peak / 2**30 < find_hardware("rtx4090").memory_gib
