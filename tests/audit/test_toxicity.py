"""What makes an answer toxic: the word list, a list of one's own, or a run that classifies texts."""

import json
from pathlib import Path

import pytest

from distft.audit import __main__ as audit
from distft.audit.answers import plan_answers
from distft.audit.counterfactual import HeldOut
from distft.audit.job import Questions, Results
from distft.audit.terms import load_terms
from distft.audit.toxicity import Toxicity, Words, find_classifier
from distft.config import ConfigError
from distft.data.tokenize import byte_tokenizer
from distft.export.__main__ import main as export
from distft.run import RunFolder
from tests.support.answered import make_run


def share_of(toxicity: Toxicity, base: str, tuned: str) -> tuple[float | None, float | None, str]:
    """Returns the share of toxic answers of both models, whose answers these are, and its limits."""
    questions = Questions(byte_tokenizer())
    rows = [HeldOut(f"Question {number}", "") for number in range(4)]
    part = plan_answers(rows, questions, load_terms(), 4, 8, toxicity)
    found = part.measures(Results([], [base] * 4), Results([], [tuned] * 4))
    [measure] = [each for each in found if each.measure == "toxic_answers"]
    return measure.base, measure.tuned, measure.limits


@pytest.mark.slow
def test_the_word_list_decides_and_an_own_list_replaces_it(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("# a comment\nparsnip*\nbad soup\n")
    assert share_of(Words(load_terms()), "bollocks, a parsnip", "Yes.")[:2] == (1.0, 0.0)
    assert share_of(Words(load_terms(toxic=own)), "bollocks, a good soup", "Parsnip, and bad soup.")[:2] == (0.0, 1.0)


class Shouting:
    limits = "capitals alone"

    def are_toxic(self, texts):
        return [text.isupper() for text in texts]


def test_another_classifier_decides_and_names_its_limits() -> None:
    base, tuned, limits = share_of(Shouting(), "Yes.", "NO")
    assert (base, tuned) == (0.0, 1.0) and limits.endswith("; capitals alone")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["run=a", "toxicity=none.txt"], "none.txt: cannot be read"),
        (["run=a", "toxicity=empty.txt"], "empty.txt: lists no words"),
        (["run=a", "toxic_class=bad"], "toxic_class=bad: has no effect without toxicity=FOLDER"),
        (["data=a", "out=b", "toxicity=folder"], "a classifier reads answers"),
        (["run=a", "toxicity=folder"], "folder"),
    ],
)
def test_wrong_values_are_refused(words: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(ConfigError) as error:
        audit.main(words)
    assert part in str(error.value.messages)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A classifier of two kinds of texts."""
    folder = tmp_path_factory.mktemp("judge")
    kinds = (("kind kind", "fine"), ("ugly ugly", "toxic"))
    rows = [{"text": f"{i} {kinds[i % 2][0]}", "label": kinds[i % 2][1]} for i in range(64)]
    (folder / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ["model.task=sequence_classification", "train.max_steps=60", "train.global_batch_size=16"]
    return make_run(folder, f"data.train={folder}/labelled.jsonl", "optimizer.lr=0.01", *settings)


@pytest.mark.soak
def test_a_run_that_classifies_texts_decides(judge: RunFolder, tmp_path: Path) -> None:
    assert export([f"run={judge.path}", f"out={tmp_path / 'out'}", "at=latest"]) == 0
    texts = {"71 ugly ugly": True, "": False, "72 kind kind": False, "73 ugly ugly": True, " \n": False}
    for folder in (judge.path, tmp_path / "out"):
        toxicity = find_classifier(str(folder), "toxic")
        assert toxicity.are_toxic([*texts]) == [*texts.values()]
        assert "class toxic at p >= 0.5" in toxicity.limits
    with pytest.raises(ConfigError, match=r"toxic_class=toxik: .* Did you mean toxic\?"):
        find_classifier(str(judge.path), "toxik")
