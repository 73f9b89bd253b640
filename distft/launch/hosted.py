"""Runs of a hosted model: their rows, their plan, and the answers of the tuned model to held-out rows.

The rest of a launch is that of every launcher: freeze, submit, follow, report.
"""

import json
import math
import sys
from pathlib import Path

from distft.config import Config, ConfigError
from distft.config.errors import Unavailable
from distft.config.schema import Export
from distft.data.chat_files import write_chats
from distft.data.example import RawJson
from distft.evaluate.scores import make_scores
from distft.launch.stages import write_results
from distft.launchers.openai import Job, connect, explained, folder_of
from distft.run import Plan, RunFolder, json_text, write_json
from distft.trackers.terminal import screen, summary

SCORES = ("exact_match", "f1")  # by text: the API gives no log-likelihood of a given answer
NO_EXPORT = Export(enabled=False)


def plan_hosted(run: RunFolder, config: Config) -> Plan:
    """Writes the run's chat files and returns its plan, which has no machines; ConfigError for wrong rows.

    Raises ConfigError where the rows are not those that the run began with.
    """
    files = write_chats(config, folder_of(run))
    reads = {"train": files.train.sha256, "eval": files.eval.sha256 if files.eval else None}
    before = run.read_plan().reads if run.plan.is_file() else reads
    if before != reads:
        raise ConfigError([f"name={run.path.name}: its rows have changed since it began. Try: another name"])
    return Plan(
        nodes=1,
        processes_per_node=1,
        world=1,
        micro_batch_size=None,
        accumulation=1,
        steps=0,  # OpenAI decides
        rows=files.train.rows,
        eval_rows=files.eval.rows if files.eval else 0,
        epochs=float(config.train.epochs or 0),
        tokens=0,
        estimated=True,
        parameters=0,
        model_dir=None,
        tokenizer_dir=None,
        data_dir=None,
        memory={},
        reads=reads,
        model_name=str(config.launcher.model),
    )


def finish_hosted(run: RunFolder, config: Config) -> int:
    """Evaluates the tuned model where that has not been done, reports the run and prints its summary; 1 when one of
    these failed."""
    most, done = config.launcher.eval_rows, True
    out = run.eval / "latest"
    if most and run.read_plan().eval_rows and not (out / "metrics.json").is_file():
        try:
            evaluate(run, most, out)
        except (Unavailable, ValueError) as error:
            again = f"Try: the same command, with name={run.path.name}"
            screen(sys.stderr).print(f"{run.path.name}: not evaluated: {error}\n{again}", markup=False)
            done = False
    done = write_results(run, export=NO_EXPORT) and done
    job = Job.read(run)
    assert job is not None, "it has ended"
    screen(sys.stdout).print(summary(run))
    for line in about(job):
        screen(sys.stdout).print(line, markup=False)
    return 0 if done else 1


def about(job: Job) -> list[str]:
    """Returns what a finished job made and cost, a line each."""
    tokens = [f"{job.trained_tokens:,} tokens trained"] if job.trained_tokens is not None else []
    cost = [f"${job.cost:,.2f}"] if job.cost is not None else []
    return [f"tuned model: {job.fine_tuned_model}", *([", ".join(tokens + cost)] if tokens else [])]


def evaluate(run: RunFolder, most: int, out: Path) -> None:
    """Has the tuned model answer the first held-out rows, and writes metrics.json and items.jsonl.

    Each row is a conversation without its last message, which is the expected answer. Unavailable and ValueError where
    OpenAI does not answer.
    """
    job, client = Job.read(run), connect()
    assert job is not None and job.fine_tuned_model, "the job has succeeded"
    scores, _ = make_scores(SCORES, {})
    items: list[RawJson] = []
    lines = (folder_of(run) / "eval.jsonl").read_text().splitlines()[:most]
    for number, line in enumerate(lines):
        row = json.loads(line)
        *prompt, last = row["messages"]
        expected = last.get("content")
        if not isinstance(expected, str):  # a call
            continue
        request = {"messages": [{key: value for key, value in each.items() if key != "weight"} for each in prompt]}
        request |= {"tools": row["tools"]} if "tools" in row else {}
        with explained("answer held-out rows"):
            answer = client.chat.completions.create(model=job.fine_tuned_model, temperature=0, **request)
        text = answer.choices[0].message.content or ""
        found = {"id": number, "prompt": prompt[-1].get("content"), "answer": text, "expected": expected}
        for score in scores.values():
            found |= {name: counts[0] / counts[1] for name, counts in score(text, expected).items() if counts[1]}
        items.append(found)
    out.mkdir(parents=True, exist_ok=True)
    (out / "items.jsonl").write_text("".join(json_text(item) + "\n" for item in items))
    metrics = {name: _estimate([float(each[name]) for each in items]) for name in SCORES} if items else {}
    step = run.read_status()["step"]
    write_json(
        out / "metrics.json", {"step": step, "at": "latest", "rows": len(items), "metrics": metrics, "slices": {}}
    )


def _estimate(values: list[float]) -> dict[str, float | int]:
    mean, n = sum(values) / len(values), len(values)
    spread = sum((value - mean) ** 2 for value in values) / max(1, n - 1)
    return {"value": mean, "stderr": math.sqrt(spread / n), "n": n}
