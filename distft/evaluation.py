"""One evaluation: the items of a model, the job that measures them, and their metrics.

It runs in the process of the command; the ranks of the job run `distft.inference.evaluate`.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from distft.config import ConfigError
from distft.data.shards import Rows
from distft.evaluate import benchmark_results
from distft.evaluate.answers import Answered, answer_metrics
from distft.evaluate.benchmark_results import item_scores, question_lines
from distft.evaluate.items import Item, column_values, locate, prepare, wrong_columns
from distft.evaluate.job import ABOUT, BENCHMARKS, Tasks, Work, count_sums, read_sums
from distft.evaluate.metrics import Evaluation, Metric, language_model_metrics
from distft.evaluate.metrics_file import Benchmark
from distft.evaluate.ready_tasks import make_ready, ready_tasks
from distft.evaluate.scores import ScoreLike
from distft.evaluate.unit_metrics import Units, metrics_of_all, metrics_of_sums, pooled
from distft.generate.job import count_answers, freeze, read_answers
from distft.generate.prompts import Request, held_out_prompts, too_long
from distft.generate.settings import Settings, without_stop
from distft.generate.source import Source
from distft.judges import JudgeLike, Question
from distft.judges.pairs import compare_answers, conclusion, summary
from distft.launchers.local import Local, LocalConfig
from distft.paths import absolute
from distft.run import RunFolder, read_json
from distft.tasks import Task as ModelTask
from distft.tasks import load_task
from distft.tasks.labels import Labels

WORK = "distft.inference.evaluate"
CAUSAL_LM = "causal_lm"
TOKENS_PER_FORWARD = 4096  # of a model in a folder, which has no plan
Values = Mapping[str, Any]  # JSON


class Failed(RuntimeError):
    """The job of an evaluation failed; the message says which rank, why, and where its log is."""


@dataclass(frozen=True)
class Task:
    """What is measured. rows_from: other values of `data`; empty: the held-out rows of the run. scores: of answers.

    columns: of slices. cluster: column that groups dependent items; None: the source row.
    batch_size: rows per forward.
    """

    rows_from: Mapping[str, Any]
    scores: Mapping[str, ScoreLike] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    batch_size: int | None = None
    columns: Sequence[str] = ()
    cluster: str | None = None
    tasks: Tasks | None = None
    ignore_fields: Sequence[str] = ()  # of the rows of a file
    is_judged: bool = False  # whether answers are made for a judge, also without scores

    @property
    def answers(self) -> bool:
        """Whether the model answers the prompts of the rows."""
        return bool(self.scores) or self.is_judged


@dataclass(frozen=True)
class Measured:
    """One model's numbers."""

    source: Source
    items: list[Item]
    evaluation: Evaluation
    sums: Mapping[str, np.ndarray]
    answers: list[Answered]
    prompts: list[Request]  # that were answered; empty without answers
    about: Values
    notes: list[str]
    benchmarks: dict[str, Benchmark]
    questions: Sequence[Evaluation]  # of the benchmarks, one metric each
    responses: Sequence[Mapping[str, object]]  # lines of questions.jsonl


def measure(source: Source, task: Task, out: Path, console: Console) -> Measured:
    """Measures a model on all items; ConfigError for wrong rows or columns, Failed where a rank fails.

    out: folder of the results, in which the job's folder is while it runs, and stays when it fails.
    """
    folder = out / f"job-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        rows, items, requests, notes = find_items(source, task, folder / "rows")
        job = make_job(folder / "job", source, task, rows, requests)
    except ConfigError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    run_job(job, source, len(items), len(requests), console)
    sums, units = read_sums(job, len(items)) if items else ({}, [])
    answers = read_answered(job, source, requests, task.settings)
    found = read_json(job.path / BENCHMARKS) if task.tasks else {"results": {}, "samples": {}}
    questions = questions_of(found)
    measured = Measured(
        source,
        items,
        evaluation_of(items, sums, units, answers, task, load_task(source.config.model.task)),
        sums,
        answers,
        requests,
        read_json(job.path / ABOUT),
        notes,
        with_errors(benchmark_results.summary(found), questions),
        questions,
        question_lines(found),
    )
    shutil.rmtree(folder, ignore_errors=True)
    return measured


def judged_pairs(ours: Measured, theirs: Measured) -> tuple[list[int], list[Question]]:
    """Returns the items that both have answered, by our numbers, and the question to a judge on each."""
    answers = {item.id: answer for item, answer in zip(theirs.items, theirs.answers, strict=True)}
    at = [i for i, item in enumerate(ours.items) if item.id in answers]
    texts = [ours.source.render.decode(ours.prompts[i].token_ids).strip() for i in at]
    questions = []
    for i, text in zip(at, texts, strict=True):
        answer = ours.answers[i]
        questions.append(Question(text, answer.text, answers[ours.items[i].id].text, answer.expected or None))
    return at, questions


@dataclass(frozen=True)
class Verdicts:
    """What a judge found, and its lines of judgments.jsonl."""

    found: Mapping[str, object]  # `judge` of metrics.json
    lines: Sequence[Mapping[str, object]]


def judged(judge: JudgeLike, measured: Measured, theirs: Measured) -> Verdicts:
    """Returns a judge's verdicts on the items that both models have answered; RuntimeError where it gives up."""
    at, questions = judged_pairs(measured, theirs)
    cache = absolute(measured.source.config.cache_dir) / "judgments"
    verdicts, cost = compare_answers(judge, questions, cache)
    found = summary(verdicts, [measured.evaluation.clusters[i] for i in at], cost)
    lines = [
        {"id": measured.items[i].id, "prompt": measured.prompts[i].given["prompt"], "winner": verdict.winner}
        | {"ours": verdict.question.first, "theirs": verdict.question.second}
        | {"in_order": verdict.in_order, "swapped": verdict.swapped}
        for i, verdict in zip(at, verdicts, strict=True)
    ]
    return Verdicts(found | {"verdict": conclusion(found), "settings": dict(judge.identity)}, lines)


def evaluation_of(
    items: Sequence[Item],
    sums: Mapping[str, np.ndarray],
    units: Sequence[Units],
    answers: Sequence[Answered],
    task: Task,
    trained: ModelTask,
) -> Evaluation:
    """Returns the metrics over all items. trained: model.task. units: of each item, where it has labels."""
    if not items:
        return Evaluation([], [], [])
    if task.cluster:
        clusters = [str(value) for value in column_values(items, task.cluster)]
    else:
        clusters = [item.place for item in items]
    ids = [item.id for item in items]
    if trained.name != CAUSAL_LM:
        whole = metrics_of_all(trained, units, clusters)
        return Evaluation(ids, clusters, metrics_of_sums(trained, sums), whole, pooled(trained, units))
    metrics = language_model_metrics(sums["loss"], sums["weight"], sums["correct"], sums["targets"])
    if answers:
        metrics += answer_metrics(answers, task.scores)
    return Evaluation(ids, clusters, metrics)


def questions_of(found: Values) -> list[Evaluation]:
    """Returns the scores of benchmarks by question: an evaluation for each task and metric."""
    made = []
    for name, each in item_scores(found).items():
        scores = np.array(each["scores"])
        counts = np.stack([scores, np.ones(len(scores))], 1)
        metric = Metric(name, counts, is_binary=bool(np.isin(scores, (0, 1)).all()))
        made.append(Evaluation(each["ids"], each["ids"], [metric]))
    return made


def with_errors(benchmarks: dict[str, Benchmark], questions: Sequence[Evaluation]) -> dict[str, Benchmark]:
    """Returns the benchmarks with intervals from the score of each question, where a metric has one."""
    for evaluation in questions:
        [(name, found)] = evaluation.estimates().items()
        task, _, metric = name.rpartition("/")
        entry = benchmarks[task]["metrics"].get(metric) if task in benchmarks else None
        if entry and abs(entry["value"] - found.value) < 1e-9:
            entry["stderr"], entry["low"], entry["high"], entry["n"] = found.stderr, found.low, found.high, found.n
    return benchmarks


def check_items(source: Source, task: Task) -> None:
    """Raises ConfigError for rows or columns that cannot be measured, as `measure` would."""
    with TemporaryDirectory(prefix="distft-evaluate-") as folder:
        find_items(source, task, Path(folder) / "rows")


def find_items(source: Source, task: Task, folder: Path) -> tuple[Rows | None, list[Item], list[Request], list[str]]:
    """Returns the rows to measure, their items, the prompts to answer, and notes; ConfigError for wrong ones.

    No rows where there are benchmarks alone. folder: for rows that are prepared here.
    """
    rows, items, notes = find_rows(source, task, folder)
    names = [*task.columns, *([task.cluster] if task.cluster else [])]
    if wrong := wrong_columns(items, names, "slices"):
        raise ConfigError([*wrong, *notes])
    if task.answers and source.config.model.task != CAUSAL_LM:
        key = "scores" if task.scores else "judge"
        raise ConfigError([f"{key}: model.task={source.config.model.task} gives no answers. Try: without {key}"])
    requests = list(held_out_prompts(rows, source.render)) if task.answers and rows else []
    if long := too_long(requests, source.positions):
        raise ConfigError(long)
    return rows, items, requests, notes


def find_rows(source: Source, task: Task, folder: Path) -> tuple[Rows | None, list[Item], list[str]]:
    """Returns the rows to measure, their items, and notes; no rows where there are benchmarks alone.

    folder: for rows that are prepared here.
    """
    if task.rows_from:
        ignored = list(dict.fromkeys([*source.config.data.ignore_fields, *task.ignore_fields]))
        changes = {"data.ignore_fields": ignored, **{f"data.{key}": value for key, value in task.rows_from.items()}}
        columns = [*task.columns, *([task.cluster] if task.cluster else [])]
        items = prepare(source.config.changed(changes), folder, columns, Labels.of(source.plan.labels))
        return Rows(folder, "eval"), items, []
    if source.held_out is None:
        gone = source.plan.eval_rows and f"the prepared rows are gone ({source.plan.data_dir})"
        reason = str(gone or f"{source.name} has no held-out rows")
        if task.tasks and not task.answers:
            return None, [], [reason]
        raise ConfigError([f"run: {reason}. Try: data.eval=FILE"])
    items, note = locate(source.held_out, source.config)
    return source.held_out, items, [note] if note else []


def make_job(folder: Path, source: Source, task: Task, rows: Rows | None, requests: Sequence[Request]) -> RunFolder:
    """Writes the folder of a job: config, plan, prompts, and what is measured."""
    source = replace(source, config=source.config.changed({"work": WORK}))
    job = freeze(folder, source, [request.token_ids for request in requests], task.settings)
    plan = source.plan
    max_rows = task.batch_size or source.config.eval.micro_batch_size or plan.micro_batch_size
    if plan.data_dir is None and task.batch_size is None:  # a model in a folder
        max_rows, max_tokens = None, TOKENS_PER_FORWARD
    else:
        max_tokens = None if max_rows else plan.micro_batch_tokens
    tasks = task.tasks
    if tasks and (ready := [name for name in tasks.names if name in ready_tasks()]):
        make_ready(ready, absolute(source.config.cache_dir), folder / "tasks")
        tasks = replace(tasks, paths=(*tasks.paths, str(folder / "tasks")))
    Work(str(rows.folder) if rows else None, max_rows, max_tokens, tasks).write(job)
    return job


def run_job(job: RunFolder, source: Source, num_rows: int, num_prompts: int, console: Console) -> None:
    """Runs the job on this machine with a progress bar; Failed when a rank fails."""
    from distft.checkpoint.retention import reading  # imports torch
    from distft.tensors.integrity import Damaged

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not console.is_terminal
    try:
        with (
            reading(source.checkpoint) if source.checkpoint else nullcontext(),  # a run that goes on does not delete it
            Progress(*columns, console=console, transient=True, disable=hidden) as progress,
        ):
            measured = progress.add_task("rows", total=num_rows, visible=num_rows > 0)
            answered = progress.add_task("answers", total=num_prompts, visible=num_prompts > 0)
            [handle] = Local(LocalConfig()).submit([job.path])
            while (outcome := handle.wait(0.2)) is None:
                progress.update(measured, completed=count_sums(job))
                progress.update(answered, completed=count_answers(job))
    except Damaged as error:
        raise Failed(f"{source.name} was not evaluated: {error}") from error
    if outcome.error:
        error = outcome.error
        raise Failed(f"{job.path} failed: {error['type']}: {error['message']}\n  log: {error['log']}")


def read_answered(job: RunFolder, source: Source, requests: Sequence[Request], settings: Settings) -> list[Answered]:
    """Returns the answers in the order of the prompts."""
    found = {answer.index: answer for answer in read_answers(job)}
    if len(found) != len(requests):
        raise RuntimeError(f"{job.path} has {len(found)} answers to {len(requests)} prompts")
    answers = []
    for index, request in enumerate(requests):
        answer = found[index]
        kept = answer.token_ids[:-1] if answer.stopped == "eos" else answer.token_ids
        text = without_stop(source.render.decode(kept), settings.stop)
        answers.append(Answered(text, request.expected or "", len(answer.token_ids), answer.stopped))
    return answers
