"""`distft evaluate` measures checkpoints, the base, exports and other rows, compares them, and refuses bad input."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from distft import inference, worker
from distft.config import ConfigError, compose, read_config
from distft.data.shards import Rows
from distft.data.stage import prepare_data
from distft.evaluate.__main__ import main
from distft.judges import Question, make_judge
from distft.judges.pairs import compare_answers
from distft.launch import stages
from distft.launchers.contract import Outcome
from distft.run import RunFolder
from tests.evaluate.test_benchmarks import write_tasks
from tests.support.alone import alone
from tests.support.answered import make_run, read_lines, write_lines
from tests.support.chat_server import ChatServer
from tests.support.warm import warm_children

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def tuned_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A LoRA run of three steps with checkpoints of steps 2 and 3; its base model is two folders up, in base/."""
    return make_run(tmp_path_factory.mktemp("evaluated"), "tuning=lora", "tuning.rank=4")


class Here:
    """A launcher that runs the ranks' function in this process, which saves an import of torch for each job."""

    def __init__(self, _: Any) -> None: ...

    def submit(self, folders: list[Path]) -> list["Here"]:
        with alone() as world:
            inference.evaluate(RunFolder(folders[0]), 1, world)
        return [self]

    def wait(self, _: float) -> Outcome:
        return Outcome("completed")


class Generates(Here):
    """The same for a job of `distft generate`."""

    def submit(self, folders: list[Path]) -> list["Here"]:
        with alone() as world:
            inference.generate(RunFolder(folders[0]), 1, world)
        return [self]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distft.evaluation.Local", Here)


def evaluate(*words: str, at: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns metrics.json and the items of an evaluation whose results are in folder `at`."""
    assert main([*words, "launcher.processes_per_node=1"]) == 0
    return json.loads((at / "metrics.json").read_text()), read_lines(at / "items.jsonl")


def test_the_command_measures_on_several_processes(tuned_run: RunFolder, warm: None, capsys: Any) -> None:
    words = [f"run={tuned_run.path}", "scores=[exact_match,bleu]", "max_new_tokens=4", "--json", "strategy=fsdp"]
    assert main([*words, "launcher.processes_per_node=2"]) == 0
    printed = json.loads(capsys.readouterr().out)
    folder = tuned_run.eval / "step-00000003"
    assert printed == json.loads((folder / "metrics.json").read_text())
    assert (tuned_run.eval / "latest").resolve() == folder.resolve()
    assert sorted(file.name for file in folder.iterdir()) == ["items.jsonl", "metrics.json"]
    assert printed["step"] == 3 and printed["at"] == "latest" and printed["settings"]["processes"] == 2
    items = read_lines(folder / "items.jsonl")
    assert printed["rows"] == len(items) == tuned_run.read_plan().eval_rows
    loss, targets = printed["metrics"]["loss"], sum(each["target_tokens"] for each in items)
    assert loss["value"] == pytest.approx(sum(each["loss_sum"] for each in items) / targets)
    assert loss["n"] == loss["clusters"] == len(items) and loss["low"] < loss["value"] < loss["high"]
    assert printed["metrics"]["bleu"]["value"] >= 0 and printed["settings"]["scores"]["bleu"].startswith("tokenizer")
    raw = read_lines(tuned_run.path.parents[1] / "rows.jsonl")
    for each in items:
        row = raw[each["line"] - 1]
        assert each["expected"] == row["completion"] and Path(each["source"]).name == "rows.jsonl"
        assert each["exact_match"] == float(each["answer"].strip() == row["completion"])


def test_the_base_is_compared_on_the_same_items(tuned_run: RunFolder, here: None, tmp_path: Path, capsys: Any) -> None:
    found, items = evaluate(f"run={tuned_run.path}", "against=base", f"out={tmp_path}", at=tmp_path)
    loss, other = found["metrics"]["loss"]["value"], found["against"]["loss"]
    assert other["theirs"] + other["difference"] == pytest.approx(loss) and 0 < other["p"] <= 1
    assert other["low"] < other["difference"] < other["high"]
    assert found["against_model"] == {
        "name": "run at base",
        "matched": len(items),
        "only_here": 0,
        "only_there": 0,
    }
    shown = other["low"] > 0 or other["high"] < 0
    assert other["verdict"] == "better" if shown else other["verdict"].startswith("no difference shown; about ")
    printed = capsys.readouterr().out
    assert f"loss: {other['verdict']}" in printed and str(tmp_path / "metrics.json") in printed
    assert not (tuned_run.eval / "base").exists()


def test_the_loss_is_that_of_transformers_on_the_rows(tuned_run: RunFolder, here: None, tmp_path: Path) -> None:
    found, items = evaluate(f"run={tuned_run.path}", "at=base", f"out={tmp_path}", at=tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(tuned_run.path.parents[1] / "base", dtype=torch.float32)
    rows = Rows(tuned_run.read_plan().rows_dir, "eval")
    with torch.no_grad():
        for each, row in zip(items, rows, strict=True):
            ids = torch.from_numpy(row.input_ids.astype("int64"))[None]
            labels = ids.masked_fill(~torch.from_numpy(row.trained)[None], -100)
            expected = float(model(input_ids=ids, labels=labels).loss) * each["target_tokens"]
            assert each["loss_sum"] == pytest.approx(expected, rel=1e-5)
    assert found["step"] == 0 and found["at"] == "base"


def test_other_rows_are_sliced_and_clustered_by_columns(tuned_run: RunFolder, here: None, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"{i} and {i} is",
            "completion": str(2 * i),
            "topic": "even" if i % 2 == 0 else "odd",
            "user": i // 4,
        }
        for i in range(40)
    ]
    file = write_lines(tmp_path / "more.test.jsonl", rows)
    folder = tuned_run.eval / "step-00000002" / "more.test"
    words = [
        f"run={tuned_run.path}",
        "at=step-2",
        f"data.eval={file}",
        "slices=[topic,length,completion]",
        "cluster=user",
    ]
    found, items = evaluate(*words, "batch_size=8", at=folder)
    assert found["label"] == "more.test" and found["rows"] == 40
    assert found["metrics"]["loss"]["n"] == 40 and found["metrics"]["loss"]["clusters"] == 10
    topics = found["slices"]["topic"]
    assert {name: each["n"] for name, each in topics.items()} == {"even": 20, "odd": 20}
    assert all(each["few"] for each in topics.values())
    odd = [each for each in items if each["topic"] == "odd"]
    expected = sum(each["loss_sum"] for each in odd) / sum(each["target_tokens"] for each in odd)
    assert topics["odd"]["metrics"]["loss"]["value"] == pytest.approx(expected)
    assert set(found["slices"]["length"]) == {"1-64"} and len(found["slices"]["completion"]) == 40
    assert found["settings"]["seen_in_training"] == 40 - tuned_run.read_plan().eval_rows
    assert any("are also training rows" in note for note in found["notes"])


def test_an_export_is_measured_like_its_run(tuned_run: RunFolder, here: None, tmp_path: Path) -> None:
    from distft.export.__main__ import main as export

    assert export([f"run={tuned_run.path}", f"out={tmp_path / 'out'}", "at=latest", "format=merged", "dtype=fp32"]) == 0
    five = [{"prompt": f"{i} and", "completion": str(i)} for i in (0, 1, 2, 3, 1)]
    file = write_lines(tmp_path / "few.jsonl", five)
    words = [f"data.eval={file}", "label=again", "precision=fp32"]
    of_run, items = evaluate(f"run={tuned_run.path}", *words, at=tuned_run.eval / "step-00000003" / "again")
    of_export, others = evaluate(f"run={tmp_path / 'out'}", *words, at=tmp_path / "out" / "eval" / "again")
    assert of_export["metrics"]["loss"]["value"] == pytest.approx(of_run["metrics"]["loss"]["value"], rel=1e-6)
    assert [each["id"] for each in items] == [each["id"] for each in others]
    assert len({each["id"] for each in items}) == 5 and items[4]["id"] == items[1]["id"] + "-2"
    assert of_export["settings"]["seen_in_training"] is None


def test_two_runs_are_compared_on_the_rows_of_both(tuned_run: RunFolder, here: None, tmp_path: Path) -> None:
    other = RunFolder(shutil.copytree(tuned_run.path, tmp_path / "other", symlinks=True))
    shutil.rmtree(other.eval, ignore_errors=True)
    rows = prepare_data(read_config(tuned_run).changed({"data.eval": 0.5, "data.split_seed": 3}))
    other.write_plan(replace(tuned_run.read_plan(), data_dir=str(rows.folder)))
    found, items = evaluate(
        f"run={tuned_run.path}", f"against={other.path}", f"out={tmp_path / 'o'}", at=tmp_path / "o"
    )
    model = found["against_model"]
    assert model["matched"] + model["only_here"] == len(items) and model["only_there"] > 0 and model["matched"] > 0
    assert found["against"]["accuracy"]["n"] == model["matched"]
    assert not (other.eval / "step-00000003").exists()  # nothing is written into the other run


def test_benchmarks_stay_where_the_rows_are_measured_again(tuned_run: RunFolder, here: None, tmp_path: Path) -> None:
    folder, out = write_tasks(tmp_path, 6), tmp_path / "out"
    words = [f"run={tuned_run.path}", f"out={out}"]
    found, _ = evaluate(*words, "tasks=[doubles]", f"task_path={folder}", "against=base", "limit=4", at=out)
    doubles = found["benchmarks"]["doubles"]
    assert doubles["n"] == 4 and doubles["limit"] == 4 and doubles["versions"]["lm-eval"] and doubles["dtype"]
    assert doubles["metrics"]["acc"]["n"] == 4 and found["against"]["doubles/acc"]["test"] == "mcnemar"
    again, _ = evaluate(*words, at=out)
    assert again["benchmarks"] == found["benchmarks"] and again["against"] == {}


WORDS = ("red", "green", "blue")
OF_CLASSES = [{"text": f"w{i} {WORDS[i % 3]}", "label": WORDS[i % 3].upper()} for i in range(40)]


@pytest.fixture(scope="session")
def run_of_classes(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of two steps on rows with three classes."""
    folder = tmp_path_factory.mktemp("classes")
    file = write_lines(folder / "rows.jsonl", OF_CLASSES)
    overrides = ["model.tiny=true", "model.task=sequence_classification", f"data.train={file}", "data.eval=0.3"]
    overrides += [f"runs_dir={folder}", f"cache_dir={folder}/cache", "name=run", "train.max_steps=2"]
    run, config = stages.with_name(compose([*overrides, "train.precision=fp32", "train.global_batch_size=4"]))
    with warm_children():
        plan = stages.prepare_and_plan(run, config, overrides)
    stages.freeze(run, config, plan, overrides)
    with alone() as world:
        worker.train(run, run.read_status()["attempt"], world)
    return run


def test_a_run_of_classes_is_measured_with_its_metrics(run_of_classes: RunFolder, here: None, tmp_path: Path) -> None:
    run, rows = run_of_classes, OF_CLASSES
    [*_, last] = run.read_metrics("eval")
    found, items = evaluate(f"run={run.path}", "against=base", at=run.eval / "step-00000002")
    for name in ("loss", "accuracy", "f1_macro", "ece"):
        assert found["metrics"][name]["value"] == pytest.approx(last[name], rel=1e-5), name
    assert found["rows"] == last["target_tokens"] == len(items) and found["against"]["accuracy"]["n"] == len(items)
    other = found["against"]["f1_macro"]
    assert other["test"] == "bootstrap"
    assert other["theirs"] + other["difference"] == pytest.approx(found["metrics"]["f1_macro"]["value"])
    test = write_lines(tmp_path / "test.jsonl", rows[:9])
    found, _ = evaluate(
        f"run={run.path}", f"data.eval={test}", "slices=[label]", at=run.eval / "step-00000002" / "test"
    )
    assert found["rows"] == 9 and {name: each["n"] for name, each in found["slices"]["label"].items()} == dict.fromkeys(
        ("BLUE", "GREEN", "RED"), 3
    )
    write_lines(test, [{"text": "w pink", "label": "PINK"}])
    with pytest.raises(ConfigError, match="training had no class PINK. Allowed: BLUE, GREEN, RED"):
        main([f"run={run.path}", f"data.eval={test}"])
    with pytest.raises(ConfigError, match="gives no text"):
        main([f"run={run.path}", "scores=[f1]"])


def test_bad_input_is_refused_before_a_process_starts(tuned_run: RunFolder, tmp_path: Path) -> None:
    def refused(*words: str) -> list[str]:
        given = {key: value for key, _, value in (word.partition("=") for word in words)}
        with pytest.raises(ConfigError) as caught:
            main([f"{key}={value}" for key, value in ({"run": str(tuned_run.path)} | given).items()])
        assert not list(tuned_run.eval.rglob("job-*"))
        return caught.value.messages

    assert refused("scores=[exact_mach]", "bleu.tokenize=13a", "limit=x", "label=a")[:1] == [
        "scores: exact_mach is not a score. Did you mean exact_match? Allowed: "
        "bleu, chrf, exact_match, f1, json_schema, regex, rouge"
    ]
    assert refused("limit=x", "label=a", "stop=b") == [
        "label=a: has no effect without data.eval",
        "limit=x: is a whole number of at least 1",
        "limit=x: has no effect without tasks",
        "stop=b: has no effect without scores or a judge",
    ]
    assert refused("slices=[sorce]") == [
        "slices=sorce: no row has this column. Did you mean source? Allowed: source, length, prompt, completion"
    ]
    assert refused("judge=rul", "launcher=slurn", "launcher.partition=x", "rule.score=f1") == [
        "launcher=slurn: a command runs on this machine or as a job. Allowed: launcher=local, launcher=slurm",
        "rule.score: has no effect without judge=rule",
        "judge=rul: is not a judge. Did you mean rule? Allowed: endpoint, model, rule",
        "judge=rul: compares two models. Try: against=base, or another run",
    ]
    assert refused("launcher.partition=x") == ["launcher.partition=x: has no effect without launcher=slurm"]
    file = write_lines(tmp_path / "bad.jsonl", [{"prompt": 5, "completion": "x"}])
    [message, *more] = refused(f"data.eval={file}")
    assert message == f"data.eval={file}: has no rows to evaluate" and "bad.jsonl:1: prompt" in more[0]
    [message] = refused(f"data.eval={tmp_path}/none.jsonl")
    assert "no such file" in message
    [message] = refused("against=/nowhere")
    assert message.startswith("against=/nowhere: holds no run")
    [message] = refused("at=base", "against=base")
    assert message.startswith("against=base: run at base has no checkpoint")
    base = tuned_run.path.parents[1] / "base"
    [message] = refused(f"run={base}")
    assert message.endswith("has no held-out rows. Try: data.eval=FILE")
    [message] = refused("tasks=[doubels]", f"task_path={write_tasks(tmp_path, 2)}")
    assert message.startswith("tasks: there is no task doubels. Did you mean doubles?")


def test_a_judge_compares_the_answers_of_two_models(
    tuned_run: RunFolder, here: None, tmp_path: Path, capsys: Any
) -> None:
    server = ChatServer(lambda prompt, first, second: "[[A]]" if len(first) > len(second) else "[[B]]")
    words = [
        f"run={tuned_run.path}",
        "against=base",
        "judge=endpoint",
        "endpoint.model=m",
        f"endpoint.url={server.url}",
    ]
    words += [f"out={tmp_path}", "max_new_tokens=6", "endpoint.prices=[1,2]"]
    found, items = evaluate(*words, at=tmp_path)
    server.close()
    judge, lines = found["judge"], read_lines(tmp_path / "judgments.jsonl")
    assert len(lines) == len(items) == judge["n"] + judge["unreadable"]
    assert [each["winner"] for each in lines].count("ours") == judge["wins"]
    differing = [each for each in lines if each["ours"] != each["theirs"]]
    assert len(server.requests) == judge["cost"]["asked"] == 2 * len(differing) > 0
    assert judge["cost"]["price"] == pytest.approx(len(server.requests) * (100 * 1 + 7 * 2) / 1e6)
    for each in differing:
        longer = "ours" if len(each["ours"]) > len(each["theirs"]) else "theirs"
        assert each["winner"] == ("tie" if len(each["ours"]) == len(each["theirs"]) else longer)
    assert f"judge endpoint: wins {judge['win_rate']['value']:.1%}" in capsys.readouterr().out


def test_a_local_model_is_asked_as_a_judge(tuned_run: RunFolder, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("distft.judges.model.Local", Generates)
    options = {"model.run": str(tuned_run.path), "model.max_new_tokens": 4}
    judge, errors = make_judge("model", options)
    assert judge is not None and not errors
    questions = [Question("3 and 3 is", "6", "7")]
    [reply, other] = [reply for _, reply in sorted(judge([*questions, Question("3 and 3 is", "7", "6")]))]
    assert 0 < reply.output_tokens <= 4 and reply.input_tokens == other.input_tokens > 100
    verdicts, cost = compare_answers(judge, questions, tmp_path)
    assert verdicts[0].winner in ("ours", "theirs", "tie", "unreadable") and cost.price is None
    assert make_judge("model", {"model.run": "/nowhere"})[1][0].startswith("judge=model: model.run=/nowhere: holds no")
