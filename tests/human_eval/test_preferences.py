"""`export` writes preference rows that the data stage reads, from the raters that count."""

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest

from distft.config import ConfigError
from distft.data.formats import load_format
from distft.human_eval.__main__ import main
from distft.human_eval.preferences import majority
from distft.human_eval.study import Study
from distft.run import RunFolder
from tests.human_eval.test_analyze import careless, prefer, vote_all
from tests.support.studies import make_study, plain_texts, write_answers
from tests.support.warm import python


def exported(study: Study, *words: str) -> list[dict[str, Any]]:
    out = study.path.parent / "votes.jsonl"
    assert main(["export", f"study={study.path}", f"out={out}", *words]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_the_preferred_answer_is_chosen(tmp_path: Path):
    study = make_study(tmp_path, plain_texts(6), "raters=3", "overlap=3", "attention=0.5")
    vote_all(study, [prefer("first"), prefer("first"), prefer("Another")])
    rows = exported(study)
    assert sorted(row["prompt"] for row in rows) == [f"Question {i}?" for i in range(6)]
    for row in rows:
        number = row["prompt"].split()[1].rstrip("?")
        assert row["chosen"] == f"The first says {number}." and row["rejected"].startswith("Another says ")
    assert len(exported(study, "votes=all")) == 18


def test_the_data_stage_reads_the_rows(tmp_path: Path):
    study = make_study(tmp_path, plain_texts(3), "raters=1")
    vote_all(study, [prefer("first")])
    for row in exported(study):
        made = load_format("preference", {})(row)
        assert made.segments[-1].text == row["chosen"] and made.rejected[-1].text == row["rejected"]


def test_messages_stay_messages(tmp_path: Path):
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "2+2"},
    ]
    files = []
    for name, text in (("a", "4<|im_end|>"), ("b", "5")):
        row = {"messages": turns, "prompt": "<|im_start|>user ...", "completion": text}
        files.append(str(tmp_path / f"{name}.jsonl"))
        Path(files[-1]).write_text(json.dumps(row) + "\n")
    assert main(["create", f"study={tmp_path / 'study'}", f"answers={json.dumps(files)}", "raters=1"]) == 0
    study = Study(tmp_path / "study")
    vote_all(study, [prefer("4")])
    [row] = exported(study)
    assert row["prompt"] == turns and row["rejected"] == [{"role": "assistant", "content": "5"}]
    assert row["chosen"] == [{"role": "assistant", "content": "4<|im_end|>"}]  # as it was generated
    assert [segment.role for segment in load_format("preference", {})(row).segments] == [
        "user",
        "assistant",
        "user",
        "assistant",
    ]


def test_rendered_prompts_become_messages_again(tmp_path: Path):
    prompt = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2<|im_end|>\n<|im_start|>assistant\n"
    files = [write_answers(tmp_path / f"{name}.jsonl", [text], [prompt]) for name, text in (("a", "4"), ("b", "5"))]
    words = [f"answers={json.dumps([str(file) for file in files])}", "raters=1"]
    assert main(["create", f"study={tmp_path / 'study'}", *words]) == 0
    study = Study(tmp_path / "study")
    vote_all(study, [prefer("4")])
    [row] = exported(study)
    assert row["prompt"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2"}]
    assert load_format("preference", {})(row).rejected[-1].text == "5"


def test_excluded_raters_and_ties_give_no_rows(tmp_path: Path):
    study = make_study(tmp_path, plain_texts(10), "raters=2", "overlap=1", "attention=0.4")
    vote_all(study, [careless, prefer("first", ties=1.0)])
    with pytest.raises(ConfigError, match="no vote decided"):
        exported(study)


def test_equal_and_empty_answers_give_no_rows(tmp_path: Path):
    study = make_study(tmp_path, (["same", "", "first x"], ["same", "y", "z"]), "raters=1")
    vote_all(study, [prefer("first")])
    assert [row["chosen"] for row in exported(study)] == ["first x"]


def test_a_majority_needs_more_votes_for_one_system():
    votes = [("x", 0), ("x", 1), ("y", 1), ("y", 1), ("y", 0), ("z", 0)]
    assert majority(votes) == [("y", 1), ("z", 0)]


def test_impossible_exports_are_refused(tmp_path: Path):
    study = make_study(tmp_path, plain_texts(2), "raters=1")
    for words, text in (
        (["out=x", "votes=most"], "Did you mean|Allowed: majority, all"),
        ([f"out={tmp_path}"], "is a folder"),
    ):
        with pytest.raises(ConfigError, match=text):
            main(["export", f"study={study.path}", *words])
    with pytest.raises(ConfigError, match="holds no study.*Did you mean"):
        main(["export", f"study={tmp_path / 'studi'}", "out=x"])


@pytest.mark.slow
def test_the_votes_train_the_next_run_by_dpo(tmp_path: Path):
    study = make_study(tmp_path, plain_texts(6), "raters=3", "overlap=3", "attention=0.5")
    vote_all(study, [prefer("first"), prefer("first"), prefer("Another")])
    rows = exported(study)
    words = ["model=smollm2_135m", "model.tiny=true", "model.task=preference", "loss=dpo", "data=preference"]
    words += [f"data.train={study.path.parent / 'votes.jsonl'}", "data.eval=null", f"runs_dir={tmp_path}", "name=run"]
    words += [
        "train.max_steps=3",
        "train.global_batch_size=2",
        "train.epochs=null",
        "optimizer.lr=1e-3",
        "export=false",
    ]
    words += [f"cache_dir={tmp_path / 'cache'}", "launcher.processes_per_node=1"]
    subprocess.run([python(), "-m", "distft.launch", *words], check=True)
    run = RunFolder(tmp_path / "run")
    assert run.read_plan().rows == len(rows) == 6
    first, *_, last = run.read_metrics("train")
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6), "policy and reference are equal before the first step"
    assert last["step"] == 3 and last["loss"] != first["loss"]
