"""Every YAML in conf/ is a choice that composes into a whole config with every default."""

from pathlib import Path

import pytest
import yaml

from distft.config import compose
from distft.config.key import at
from distft.config.parts import TARGET_GROUPS
from distft.config.rules import broken_rules
from distft.config.rules.contract import Facts
from distft.config.schema import KEYS
from distft.data.formats import format_names
from distft.paths import conf_dir
from distft.plan.memory import shipped_strategy
from distft.tasks import load_task, task_names

WORDS = sorted((path.parent.name, path.stem) for path in conf_dir().glob("*/*.yaml"))
EXPERIMENTS = [word for group, word in WORDS if group == "experiment"]


@pytest.fixture
def right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a config needs in addition to a choice, and the demo's files, empty."""
    for module in ("machines", "config.rules.run", "config.rules.model"):
        monkeypatch.setattr(f"distft.{module}.num_accelerators", lambda: 0)
    demo = tmp_path / "demo"
    (demo / "smollm2-135m-instruct").mkdir(parents=True)
    (demo / "smollm2-135m-instruct" / "config.json").write_text('{"model_type": "llama"}')
    (demo / "smollm2-135m-instruct" / "model.safetensors").touch()
    (demo / "chatterbot.jsonl").touch()
    return [f"cache_dir={tmp_path}"]


def companions(group: str, word: str) -> list[str]:
    """Returns the task, and its loss or rows, that a loss or a format is for."""
    names = [name for name in task_names() if word in (load_task(name).losses if group == "loss" else ())]
    if group == "data":
        form = word if word in format_names() else "text"
        names = [name for name in task_names() if form in load_task(name).formats]
    if word in ("distillation", "openai"):
        return {"loss": ["loss.teacher=org/teacher"], "launcher": ["launcher.model=gpt-4o-mini"]}.get(group, [])
    if group not in ("data", "loss") or not names or names[0] == "causal_lm":
        return []
    loss = {"loss": word, "data": "kto" if word == "kto" else load_task(names[0]).losses[0]}[group]
    return [f"model.task={names[0]}", f"loss={loss}"]


@pytest.mark.slow
@pytest.mark.parametrize(("group", "word"), WORDS, ids=lambda value: value)
def test_every_choice_composes_into_a_config(group: str, word: str, right: list[str]):
    rows = [] if (group, word) in (("data", "chatterbot"), ("experiment", "laptop_demo")) else ["data.train=org/rows"]
    config = compose([*right, *rows, *companions(group, word), f"{group}={word}"], sweep=group == "sweep")
    assert config.choices[group] == word


@pytest.mark.parametrize("word", [word for word in EXPERIMENTS if word != "four_nodes_8b"])  # cut for hsdp
@pytest.mark.slow
def test_an_experiment_goes_with_every_strategy(word: str, right: list[str]):
    """By the rules about combinations: that each strategy composes is tested above."""
    rows = [] if word == "laptop_demo" else ["data.train=org/rows"]
    config = compose([*right, *rows, f"experiment={word}"])
    for strategy in sorted(conf_dir().glob("strategy/*.yaml")):
        values = {**config.values, "strategy": shipped_strategy(strategy).plain()}
        known = Facts(values, {**config.choices, "strategy": strategy.stem}, config.given)
        assert list(broken_rules(known, ())) == [], strategy.stem


def test_a_combination_that_no_experiment_has_is_found(right: list[str]):
    config = compose([*right, "data.train=org/rows", "train.compile=true"])
    values = {**config.values, "strategy": shipped_strategy(conf_dir() / "strategy" / "zero3.yaml").plain()}
    assert list(broken_rules(Facts(values, {**config.choices, "strategy": "zero3"}, config.given), ()))


@pytest.mark.parametrize("word", [word for group, word in WORDS if group == "model"])
def test_a_model_declares_what_its_tiny_instance_changes(word: str):
    values = yaml.safe_load((conf_dir() / "model" / f"{word}.yaml").read_text())
    assert set(values["tiny_architecture"]) - set(values["architecture"]) == set()
    assert values["tiny_architecture"]["vocab_size"] == 512, "the byte tokenizer's ids fit in 512"


@pytest.mark.slow
def test_every_key_of_the_schema_is_in_the_composed_config(right: list[str]):
    values = compose([*right, "data=chatterbot"]).values
    outside = [key.path for key in KEYS if key.path.partition(".")[0] not in TARGET_GROUPS]
    assert [path for path in outside if at(values, path, ...) is ...] == []
