"""`distft evaluate`: measures a checkpoint, base model or export on held-out rows, with its answers and benchmarks."""

import hashlib
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from distft.compat.reach import version_of
from distft.config import ConfigError, command
from distft.config.check import is_hub_id, own_tasks, wrong_benchmarks
from distft.config.command import JSON, keywords, usage
from distft.evaluate.items import column_values, default_slices
from distft.evaluate.job import Tasks
from distft.evaluate.metrics import Comparison, compare, slices
from distft.evaluate.metrics_file import BenchmarkSettings, MetricsFile
from distft.evaluate.ready_tasks import ready_tasks
from distft.evaluate.results import METRICS, Results, judge_lines, slice_lines, table, verdict_lines, write
from distft.evaluate.scores import available, make_scores
from distft.evaluation import Failed, Measured, Task, Verdicts, check_items, judged, measure
from distft.generate.settings import Settings, parse
from distft.generate.source import BASE, Source, find_source, find_text_source
from distft.judges import JudgeLike, make_judge
from distft.judges import available as judges
from distft.judges import is_option as is_judges
from distft.launch.command_job import HELP, job_of, mounts_of, run_as_job, split_launcher, with_paths
from distft.paths import absolute, why_not_writable
from distft.run import RunFolder

KEYS = {
    "run": "the run's folder, or an exported folder",
    "at": "latest (default), best, step-N, or base: the model before training",
    "data.eval": "rows to evaluate on: a file, folder, pattern, URL, hub id or list (default: the run's held-out rows)",
    "data.eval_split": "split of a hub id or folder (default: validation, or test in a folder without)",
    "data.subset": "configuration of a hub id",
    "data.revision": "commit, tag or branch of a hub id (default: the newest)",
    "data.ignore_fields": "columns of those rows that count as absent",
    "label": "name of the results of data.eval (default: the file's, or the hub id's)",
    "against": "base, a run or an exported folder, to compare with on the same items",
    "judge": f"compares answers in both orders, with against: {', '.join(judges())}; options: JUDGE.OPTION=VALUE",
    "scores": f"scores of answers: a list of {', '.join(available())}; their options: SCORE.OPTION=VALUE",
    "slices": "columns of the rows, source or length: metrics for each value (default: those that vary)",
    "cluster": "column whose equal values make items dependent (default: items of one source row)",
    "tasks": f"benchmarks by lm-eval: a list of {', '.join(ready_tasks())}, of task_path, or of its own",
    "task_path": "a folder with YAML tasks of lm-eval",
    "num_fewshot": "examples before each question (default: the task's)",
    "limit": "questions of each task, from the first (default: all)",
    "chat_template": "true: questions as a chat (default: false)",
    "out": "folder to write (default: RUN/eval/AT, with data.eval RUN/eval/AT/LABEL)",
    "max_new_tokens": f"tokens of an answer at most (default {Settings.max_new_tokens})",
    "stop": 'a text that ends an answer, or several: ["###", "Q:"]',
    "batch_size": "rows, or prompts, per forward of a process (default: the run's; prompts: 16)",
    "strategy": "how the model is spread over the processes (default: the run's)",
    "precision": "auto, fp32 or bf16 (default: the run's)",
    "launcher.processes_per_node": "processes on the machine, or auto (default: the run's)",
    **HELP,
}
PATHS = (
    "run",
    "against",
    "data.eval",
    "task_path",
    "out",
    "json_schema.file",
    "model.run",
)  # keys whose values are files here
CLAIM = """Writes metrics.json, metrics with standard errors and by slice, and items.jsonl, a line for each item.
The numbers are the same for every number of processes. --json prints metrics.json."""
COMPRESSED = (".gz", ".zst", ".bz2")
WIDTH = 110  # of the table
PACKAGES = ("distft", "torch", "transformers", "tokenizers", "lm-eval", "sacrebleu")


def main(arguments: list[str]) -> int:
    """Prints the metrics and returns 0; 1 with the first failing rank when the evaluation failed."""
    as_json, words = JSON in arguments, [word for word in arguments if word != JSON]
    words, launcher, errors = split_launcher(words)
    given, task, judge = read_command(words, errors, launcher is not None)
    find = find_text_source if task.answers or task.tasks else find_source
    source = find(given["run"], given.get("at"), given)
    other = other_source(given, source)
    out = place_of(given, source)
    if launcher is not None:
        for each in (source, other):
            if each is not None:
                check_items(each, task)
        job = job_of(source.config, source.plan, launcher, mounts_of(words, PATHS))
        return run_as_job("evaluate", [*with_paths(words, PATHS), *[JSON] * as_json], absolute(given["run"]), job)
    console = Console(file=sys.stderr)
    try:
        measured = measure(source, task, out, console)
        theirs = measure(other, replace(task, columns=()), out, console) if other else None
        verdicts = judged(judge, measured, theirs) if judge and theirs else None
    except (Failed, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    content = write(results_of(given, task, measured, theirs, verdicts), out)
    link(given, out)
    if as_json:
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        show(content, out)
    return 0


def read_command(words: list[str], errors: list[str], is_job: bool) -> tuple[dict[str, str], Task, JudgeLike | None]:
    """Returns the given values, what is measured and the judge; ConfigError with everything that is wrong, and with
    `errors`."""
    options = {key: value for key, _, value in (word.partition("=") for word in words) if is_option(key)}
    try:
        given = keywords([word for word in words if not is_option(word.partition("=")[0])], KEYS, required=("run",))
    except ConfigError as error:
        raise ConfigError([*errors, *error.messages]) from error
    settings, more = parse(given)
    errors += more
    names = listed(given.get("scores"), "scores", errors)
    values = {key: yaml.safe_load(value) for key, value in options.items()}
    scores, wrong = make_scores(names, {key: value for key, value in values.items() if not is_judges(key)})
    errors += wrong
    judge, wrong = make_judge(given.get("judge"), {key: value for key, value in values.items() if is_judges(key)})
    errors += wrong
    if "judge" in given and "against" not in given:
        errors.append(f"judge={given['judge']}: compares two models. Try: against=base, or another run")
    if judge is not None and judge.is_remote and is_job:
        errors.append(f"judge={given['judge']}: a job does not get its key. Try: without launcher=slurm")
    columns = listed(given.get("slices"), "slices", errors)
    ignored = listed(given.get("data.ignore_fields"), "data.ignore_fields", errors)
    of_rows = ("label", *(key for key in KEYS if key.startswith("data.") and key != "data.eval"))
    unused = [key for key in of_rows if key in given and "data.eval" not in given]
    errors += [f"{key}={given[key]}: has no effect without data.eval" for key in unused]
    tasks = read_tasks(given, errors)
    if not names and "judge" not in given:
        unused = [key for key in ("max_new_tokens", "stop") if key in given]
        errors += [f"{key}={given[key]}: has no effect without scores or a judge" for key in unused]
    if errors:
        raise ConfigError(errors)
    batch_size = settings.batch_size if "batch_size" in given else None
    rows_from, cluster = rows_given(given), given.get("cluster")
    is_judged = judge is not None
    task = Task(rows_from, scores, settings, batch_size, columns, cluster, tasks, ignored, is_judged)
    return given, task, judge


def rows_given(given: Mapping[str, str]) -> dict[str, object]:
    """Returns the keys of `data` for the rows of data.eval; empty without it. Of the run's none applies to them."""
    if "data.eval" not in given:
        return {}
    text = given["data.eval"]
    listed = yaml.safe_load(text) if text.startswith("[") else [text]
    rows = [located(each) for each in listed]
    options = {key: given.get(f"data.{key}") for key in ("eval_split", "subset", "revision")}
    return {"eval": rows if len(rows) > 1 or isinstance(rows[0], dict) else rows[0], **options}


def located(source: Any) -> Any:
    """Returns an item of data.eval, a path with its folder; a hub id or URL as it is."""
    if isinstance(source, dict) and "path" in source:
        return source | {"path": located(source["path"])}
    if not isinstance(source, str) or "://" in source:
        return source
    is_here = "*" in source or absolute(source).exists() or not is_hub_id(source)
    return str(absolute(source)) if is_here else source


def read_tasks(given: Mapping[str, str], errors: list[str]) -> Tasks | None:
    """Returns the benchmarks; None where there are none."""
    names = listed(given.get("tasks"), "tasks", errors)
    numbers: dict[str, int | None] = {"num_fewshot": None, "limit": None}
    for key, least in (("num_fewshot", 0), ("limit", 1)):
        text = given.get(key)
        if text is not None and (not text.isdecimal() or int(text) < least):
            errors.append(f"{key}={text}: is a whole number of at least {least}")
        elif text is not None:
            numbers[key] = int(text)
    chat = given.get("chat_template", "false")
    if chat not in ("true", "false"):
        errors.append(f"chat_template={chat}. Allowed: true, false")
    if not names:
        unused = [key for key in ("task_path", "num_fewshot", "limit", "chat_template") if key in given]
        errors += [f"{key}={given[key]}: has no effect without tasks" for key in unused]
        return None
    paths = (str(absolute(given["task_path"])),) if "task_path" in given else ()
    errors += wrong_benchmarks(names, given.get("task_path"), "tasks", "task_path")
    others = not set(names) <= {*(own_tasks(Path(paths[0])) if paths else ()), *ready_tasks()}
    return Tasks(tuple(names), paths, others, numbers["num_fewshot"], numbers["limit"], chat == "true")


def is_option(key: str) -> bool:
    """Returns whether a key is an option of a score or a judge: `bleu.tokenize`."""
    name, dot, _ = key.partition(".")
    return bool(dot) and (name in available() or is_judges(key))


def listed(text: str | None, key: str, errors: list[str]) -> list[str]:
    """Returns the names in `[a,b]`, or in `a`."""
    if text is None:
        return []
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    values = value if isinstance(value, list) else [value]
    names = [each for each in values if isinstance(each, str)]
    if not names or len(names) < len(values):
        errors.append(f"{key}={text}: is a list of names. Try: '{key}=[a,b]'")
        return []
    return names


def other_source(given: Mapping[str, str], source: Source) -> Source | None:
    """Returns the model to compare with; None where none is requested."""
    against = given.get("against")
    if against is None:
        return None
    if against == BASE:
        if source.checkpoint is None:
            raise ConfigError([f"against=base: {source.name} has no checkpoint to compare with it. Try: run= a run"])
        return find_source(given["run"], BASE, given)
    try:
        return find_source(against, None, given)
    except ConfigError as error:
        raise ConfigError([message.replace("run=", "against=", 1) for message in error.messages]) from error


def place_of(given: Mapping[str, str], source: Source) -> Path:
    """Returns the folder of the results; ConfigError where it cannot be written."""
    label = label_of(given) or ""
    if not label.isprintable() or "/" in label or label in (".", ".."):
        raise ConfigError([f"label={label}: is not a name of a folder. Try: label=test"])
    run = RunFolder(absolute(given["run"]))
    is_run = run.config.is_file() and run.plan.is_file()
    place = (source.checkpoint.name if source.checkpoint else BASE) if is_run else ""
    out = absolute(given["out"]) if "out" in given else run.eval / place / label
    if why := why_not_writable(out):
        raise ConfigError([f"{out}: {why}. Try: out=DIR"])
    return out


def label_of(given: Mapping[str, str]) -> str | None:
    """Returns the name of the results of other rows: `label`, else the file's name; None for the run's own rows."""
    if "data.eval" not in given:
        return None
    if "label" not in given and given["data.eval"].startswith("["):
        raise ConfigError([f"data.eval={given['data.eval']}: a list has no name for its results. Try: label=test"])
    file = Path(given["data.eval"])
    return given.get("label") or (Path(file.stem) if file.suffix in COMPRESSED else file).stem


def link(given: Mapping[str, str], out: Path) -> None:
    """Makes eval/best or eval/latest a link to the checkpoint's folder, where it was named so."""
    at = given.get("at", "latest")
    folder = out.parent if "data.eval" in given else out
    if "out" in given or at not in ("best", "latest") or folder.parent.name != "eval":
        return
    name = folder.parent / at
    with suppress(OSError):  # a filesystem without links
        if name.is_symlink() or not name.exists():
            name.unlink(missing_ok=True)
            name.symlink_to(folder.name)


def results_of(
    given: Mapping[str, str], task: Task, measured: Measured, theirs: Measured | None, verdicts: Verdicts | None
) -> Results:
    """Returns the results with slices, comparison, and the settings that the numbers depend on."""
    items, source = measured.items, measured.source
    names = list(task.columns) or default_slices(items)
    columns = {name: column_values(items, name) for name in names}
    found = compared(measured, theirs) if theirs else None
    notes = [*measured.notes, *source.notes, *(found.notes if found else ())]
    if found and not found.matched:
        notes.append("against: the two have no item in common. Try: data.eval=FILE, for both the same rows")
    seen = seen_in_training(source, [item.content_id for item in items])
    if seen:
        notes.append(f"{seen:,} of {len(items):,} items are also training rows")
    return Results(
        name=source.name,
        step=int(source.checkpoint.name.removeprefix("step-")) if source.checkpoint else 0,
        at=given.get("at", "latest"),
        items=items,
        evaluation=measured.evaluation,
        sums={name: values.tolist() for name, values in measured.sums.items()},
        answers=measured.answers,
        slices=slices(measured.evaluation, columns),
        columns=columns,
        settings=settings_of(task, measured) | {"seen_in_training": seen},
        label=label_of(given),
        comparison=found,
        against=theirs.source.name if theirs else None,
        benchmarks={name: {**each, **benchmark_settings(task, measured)} for name, each in measured.benchmarks.items()},
        questions=measured.questions,
        responses=measured.responses,
        judge=verdicts.found if verdicts else None,
        judgments=verdicts.lines if verdicts else (),
        notes=notes,
    )


def compared(measured: Measured, theirs: Measured) -> Comparison:
    """Returns the paired differences over the rows, and over the questions of each benchmark."""
    found = compare(measured.evaluation, theirs.evaluation)
    others = {evaluation.metrics[0].name: evaluation for evaluation in theirs.questions}
    for evaluation in measured.questions:
        name = evaluation.metrics[0].name
        if name in others:
            more = compare(evaluation, others[name])
            found = replace(
                found, differences={**found.differences, **more.differences}, theirs={**found.theirs, **more.theirs}
            )
    return found


def seen_in_training(source: Source, ids: list[str]) -> int | None:
    """Returns how many items have the content of a training row; None where the training rows are not known."""
    from distft.data.shards import Rows

    folder = Path(source.plan.data_dir) if source.plan.data_dir else None
    if folder is None or not folder.is_dir():
        return None
    trained = set(Rows(folder, "train").ids)
    return sum(each in trained for each in ids)


def settings_of(task: Task, measured: Measured) -> dict[str, object]:
    """Returns what the numbers depend on apart from the model and the rows."""
    source, template = measured.source, measured.source.render.renderer.chat_template
    used: dict[str, object] = {
        "dtype": measured.about["dtype"],
        "weights": "ema" if source.checkpoint and source.config.evaluates_ema else "trained",
        "strategy": source.config.choices.get("strategy", ""),
        "processes": source.plan.world,
        "model_hash": source.plan.model_hash,
        "chat_template": template and hashlib.sha256(template.encode()).hexdigest()[:16],
        "padding_side": "left" if task.answers else None,
        "cluster": task.cluster or "source row",
        "versions": {name: version for name in PACKAGES if (version := version_of(name))},
    }
    if task.answers:
        made = task.settings
        used["decoding"] = {
            "max_new_tokens": made.max_new_tokens,
            "temperature": made.temperature,
            "stop": list(made.stop),
            "batch_size": made.batch_size,
        }
        used["scores"] = {name: score.normalization for name, score in task.scores.items()}
    return used


def benchmark_settings(task: Task, measured: Measured) -> BenchmarkSettings:
    """Returns what the scores of benchmarks depend on apart from the task."""
    assert task.tasks is not None
    return {
        "dtype": measured.about["dtype"],
        "chat_template": task.tasks.chat,
        "limit": task.tasks.limit,
        "padding": "none: rows are packed",
        "model_hash": measured.source.plan.model_hash,
        "versions": {name: version_of(name) for name in ("lm-eval", "torch", "transformers")},
    }


def show(content: MetricsFile, out: Path) -> None:
    """Prints the metrics, the slices and the notes."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console = console if console.width >= WIDTH else Console(width=WIDTH, highlight=False, markup=False)
    label = f" on {content['label']}" if content["label"] else ", held-out rows"
    console.print(f"{content['model']}{label}: {content['rows']:,} items" if content["rows"] else content["model"])
    if other := content.get("against_model"):
        unmatched = f", {other['only_here']:,} only here, {other['only_there']:,} only there"
        console.print(f"against {other['name']}: {other['matched']:,} items in common{unmatched}")
    console.print(table(content))
    for line in verdict_lines(content):
        console.print(f"  {line}")
    for line in judge_lines(content):
        console.print(f"  {line}")
    for line in slice_lines(content):
        console.print(f"  {line}")
    for note in content["notes"]:
        console.print(f"note: {note}")
    console.print(f"  {out / METRICS}")


if __name__ == "__main__":
    command(main, help=usage("evaluate", KEYS, CLAIM))
