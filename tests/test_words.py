"""Every choice of conf/ that affects a rank trains two steps, saves and ends: as shipped, by glob, without a list."""

import hashlib
import json
from itertools import islice
from math import isfinite
from typing import Any

import pytest

from distft.config import Config, compose
from distft.data.stage import ensure_prepared
from distft.data.tokenize import byte_tokenizer
from distft.launch.stages import freeze, plan_run
from distft.paths import conf_dir
from distft.run import RunFolder
from distft.trackers.contract import make_trackers
from tests.support.ranks import run_ranks
from tests.support.reference import dense

pytestmark = pytest.mark.slow
WORDS = {
    group.name: sorted(file.stem for file in group.glob("*.yaml")) for group in conf_dir().iterdir() if group.is_dir()
}
ELSEWHERE = {  # group -> its words, and who runs them
    "launcher": (["local", "openai", "slurm"], "tests/launchers, tests/slurm"),
    "sweep": (["grid", "optuna"], "tests/sweep"),
    "experiment": (WORDS["experiment"], "test_conf.py and test_launch_scripts.py: they need what a laptop has not"),
}
OTHER_TASKS = {"classification", "kto", "preference", "regression", "token_classification"}  # tests/data
HERE = [group for group in WORDS if group not in ELSEWHERE]
WORDS["data"] = [word for word in WORDS["data"] if word not in OTHER_TASKS]
# The others are of other tasks: tests/losses/test_every_loss.py runs all by glob.
WORDS["loss"] = ["cross_entropy", "distillation", "cross_entropy", "cross_entropy", "cross_entropy"]
RUNS = max(len(WORDS[group]) for group in HERE)
ROWS = {
    "messages": {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
    "text": {"text": "hi, hello"},
    "alpaca": {"instruction": "hi", "input": "there", "output": "hello"},
    "sharegpt": {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
}
ROWS["openai"] = ROWS["messages"]
ROWS["datatrove"] = {"text": "hi hello", "metadata": {"license": "MIT"}}
COMMON = ["model.tiny=true", "train.max_steps=2", "train.global_batch_size=4", "launcher.processes_per_node=2"]


def words_of(number: int) -> dict[str, str]:
    """Returns a word of each group: over all runs each word comes at least once, and in other company each time."""
    return {group: WORDS[group][number % len(WORDS[group])] for group in HERE}


def different(row: str, number: int) -> str:
    """Returns a row with words of its own, as many and of such kinds as the rules of `clean` want."""
    names = [hashlib.blake2b(f"{number}-{i}".encode(), digest_size=3).hexdigest() for i in range(30)]
    words = [name.translate({ord(digit): ord(digit) + 64 for digit in "0123456789"}) for name in names]
    return row.replace("hello", f"hello the {' and '.join(words)}.").replace("hi", f"hi {words[0]}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[RunFolder, Config]]:
    folder = tmp_path_factory.mktemp("words")
    (folder / "demo").mkdir()
    for kind in {*WORDS["data"], "chatterbot"} - {"code"}:
        row = json.dumps(ROWS.get(kind, {"prompt": "hi", "completion": "hello"})) + "\n"
        file = folder / "demo" / "chatterbot.jsonl" if kind == "chatterbot" else folder / f"{kind}.jsonl"
        file.write_text("".join(different(row, i) for i in range(40)))
    (folder / "code.jsonl").mkdir()
    for i in range(40):
        (folder / "code.jsonl" / f"module_{i}.py").write_text(different("hi = 1  # hello\n", i))
    model = dense("llama3_8b", 1)
    model.save_pretrained(folder / "teacher")
    byte_tokenizer().save_pretrained(folder / "teacher")
    frozen = []
    for number in range(RUNS):
        words = words_of(number)
        own = [f"{group}={word}" for group, word in words.items()]
        own += [f"data.train={folder}/{words['data']}.jsonl"] if words["data"] != "chatterbot" else []
        own += [f"cache_dir={folder}", f"runs_dir={folder}/runs", f"name=run-{number}"]
        own += ["train.max_grad_norm=null"] if number % 2 else []
        own += [f"loss.teacher={folder}/teacher"] if words["loss"] == "distillation" else []
        config = compose([*COMMON, *own])
        run = RunFolder(folder / "runs" / f"run-{number}")
        ensure_prepared(config)
        freeze(run, config, plan_run(run, config), own)
        frozen.append((run, config))
    return frozen


@pytest.fixture(scope="module")
def effective(runs: list[tuple[RunFolder, Config]]) -> dict[str, Any]:
    return run_ranks(2, "tests.support.train_runs", *[str(run.path) for run, _ in runs])


def test_every_group_is_run_by_a_test():
    assert {group: words for group, (words, _) in ELSEWHERE.items()} == {group: WORDS[group] for group in ELSEWHERE}
    for group in HERE:
        assert {words_of(number)[group] for number in range(RUNS)} == set(WORDS[group])


@pytest.mark.parametrize("number", range(RUNS), ids=lambda number: "-".join(words_of(number).values()))
def test_every_choice_trains_two_steps(number: int, runs: list[tuple[RunFolder, Config]], effective: dict[str, Any]):
    run, config = runs[number]
    assert config.choices.items() >= words_of(number).items()
    assert run.read_status()["state"] == "completed" and (run.checkpoints / "latest").exists()
    rows = list(run.read_metrics("train"))
    assert [row["step"] for row in rows] == [1, 2] and all(isfinite(row["loss"]) for row in rows)
    evaluations = list(run.read_metrics("eval"))
    assert bool(evaluations) == (config.choices["eval"] != "none")
    assert all(("kl" in row) == (config.choices["loss"] == "distillation") for row in evaluations)
    found = effective[run.path.name]
    asked = {key: value for key, value in config.values["optimizer"].items() if not key.startswith("_")}
    assert found["optimizer"] | asked == found["optimizer"]
    assert found["max_grad_norm"] == config.values["train"]["max_grad_norm"] == (None if number % 2 else 1.0)


@pytest.mark.parametrize("word", WORDS["tracker"])
def test_a_tracker_records_the_rows_of_a_run(
    word: str, runs: list[tuple[RunFolder, Config]], effective: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run, config = next((run, config) for run, config in runs if config.choices["tracker"] == word)
    if word == "wandb":
        config = config.changed({"tracker.wandb.mode": "offline"})
    [tracker] = make_trackers(config.tracker) or [None]
    if tracker is None:
        return
    before = set(run.path.rglob("*"))
    tracker.start(run)
    for row in islice(run.read_metrics(), 4):
        tracker.log(row)
    tracker.finish("completed")
    assert {path for path in run.path.rglob("*") if path.is_file()} - before
