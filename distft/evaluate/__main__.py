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
from distft.config.command import keywords, usage
from distft.evaluate.items import column_values, default_slices
from distft.evaluate.metrics import compare, slices
from distft.evaluate.results import METRICS, Results, slice_lines, table, write
from distft.evaluate.scores import available, make_scores
from distft.evaluation import Failed, Measured, Task, measure
from distft.generate.settings import Settings, parse
from distft.generate.source import BASE, Source, find_source
from distft.paths import absolute, why_not_writable
from distft.run import RunFolder

KEYS = {
    "run": "the run's folder, or an exported folder",
    "at": "latest (default), best, step-N, or base: the model before training",
    "data.eval": "file of the rows to evaluate on (default: the run's held-out rows)",
    "label": "name of the results of data.eval (default: the file's name)",
    "against": "base, a run or an exported folder, to compare with on the same items",
    "scores": f"scores of answers: a list of {', '.join(available())}; their options: SCORE.OPTION=VALUE",
    "slices": "columns of the rows, source or length: metrics for each value (default: those that vary)",
    "cluster": "column whose equal values make items dependent (default: items of one source row)",
    "out": "folder to write (default: RUN/eval/AT, with data.eval RUN/eval/AT/LABEL)",
    "max_new_tokens": f"tokens of an answer at most (default {Settings.max_new_tokens})",
    "stop": 'a text that ends an answer, or several: ["###", "Q:"]',
    "batch_size": "rows, or prompts, per forward of a process (default: the run's; prompts: 16)",
    "strategy": "how the model is spread over the processes (default: the run's)",
    "precision": "auto, fp32 or bf16 (default: the run's)",
    "launcher.processes_per_node": "processes on this machine, or auto (default: the run's)",
}
CLAIM = """Writes metrics.json, metrics with standard errors and by slice, and items.jsonl, a line for each item.
The numbers are the same for every number of processes. --json prints metrics.json."""
PACKAGES = ("distft", "torch", "transformers", "tokenizers", "lm-eval", "sacrebleu")


def main(arguments: list[str]) -> int:
    """Prints the metrics and returns 0; 1 with the first failing rank when the evaluation failed."""
    as_json, words = "--json" in arguments, [word for word in arguments if word != "--json"]
    given, task = read_command(words)
    source = find_source(given["run"], given.get("at"), given)
    other = other_source(given, source)
    out = place_of(given, source)
    console = Console(file=sys.stderr)
    try:
        measured = measure(source, task, out, console)
        theirs = measure(other, replace(task, columns=(), tasks=None), out, console) if other else None
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    content = write(results_of(given, task, measured, theirs), out)
    link(given, out)
    if as_json:
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        show(content, out)
    return 0


def read_command(words: list[str]) -> tuple[dict[str, str], Task]:
    """Returns the given values and what is measured; ConfigError with everything that is wrong."""
    options = {key: value for key, _, value in (word.partition("=") for word in words) if is_option(key)}
    given = keywords([word for word in words if not is_option(word.partition("=")[0])], KEYS, required=("run",))
    settings, errors = parse(given)
    names = listed(given.get("scores"), "scores", errors)
    scores, wrong = make_scores(names, {key: yaml.safe_load(value) for key, value in options.items()})
    errors += wrong
    columns = listed(given.get("slices"), "slices", errors)
    if "label" in given and "data.eval" not in given:
        errors.append(f"label={given['label']}: has no effect without data.eval")
    if not names:
        unused = [key for key in ("max_new_tokens", "stop") if key in given]
        errors += [f"{key}={given[key]}: has no effect without scores" for key in unused]
    if errors:
        raise ConfigError(errors)
    batch_size = settings.batch_size if "batch_size" in given else None
    return given, Task(given.get("data.eval"), scores, settings, batch_size, columns, given.get("cluster"))


def is_option(key: str) -> bool:
    """Returns whether a key is an option of a score: `bleu.tokenize`."""
    name, dot, _ = key.partition(".")
    return bool(dot) and name in available()


def listed(text: str | None, key: str, errors: list[str]) -> list[str]:
    """Returns the names in `[a,b]`, or in `a`."""
    if text is None:
        return []
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(each, str) for each in values):
        errors.append(f"{key}={text}: is a list of names. Try: '{key}=[a,b]'")
        return []
    return values


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
    label = given.get("label") or (Path(given["data.eval"]).name.split(".")[0] if "data.eval" in given else "")
    if not label.isprintable() or "/" in label or label in (".", ".."):
        raise ConfigError([f"label={label}: is not a name of a folder. Try: label=test"])
    run = RunFolder(absolute(given["run"]))
    is_run = run.config.is_file() and run.plan.is_file()
    place = (source.checkpoint.name if source.checkpoint else BASE) if is_run else ""
    out = absolute(given["out"]) if "out" in given else run.eval / place / label
    if why := why_not_writable(out):
        raise ConfigError([f"{out}: {why}. Try: out=DIR"])
    return out


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


def results_of(given: Mapping[str, str], task: Task, measured: Measured, theirs: Measured | None) -> Results:
    """Returns the results with slices, comparison, and the settings that the numbers depend on."""
    items, source = measured.items, measured.source
    names = list(task.columns) or default_slices(items)
    columns = {name: column_values(items, name) for name in names}
    found = compare(measured.evaluation, theirs.evaluation) if theirs else None
    notes = [*measured.notes, *source.notes, *(found.notes if found else ())]
    if found and not found.matched:
        notes.append("against: the two have no item in common. Try: data.eval=FILE, for both the same rows")
    seen = seen_in_training(source, [item.id for item in items])
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
        label=given.get("label") or (Path(given["data.eval"]).name.split(".")[0] if "data.eval" in given else None),
        comparison=found,
        against=theirs.source.name if theirs else None,
        notes=notes,
    )


def seen_in_training(source: Source, ids: list[str]) -> int | None:
    """Returns how many items have the content of a training row; None where the training rows are not known."""
    from distft.data.shards import Rows

    folder = Path(source.plan.data_dir) if source.plan.data_dir else None
    if folder is None or not folder.is_dir():
        return None
    trained = set(Rows(folder, "train").ids)
    return sum(each in trained for each in ids)


def settings_of(task: Task, measured: Measured) -> dict[str, Any]:  # of metrics.json
    """Returns what the numbers depend on apart from the model and the rows."""
    source, template = measured.source, measured.source.render.renderer.chat_template
    used: dict[str, Any] = {
        "dtype": measured.about["dtype"],
        "strategy": source.config.choices.get("strategy", ""),
        "processes": source.plan.world,
        "model_hash": source.plan.model_hash,
        "chat_template": template and hashlib.sha256(template.encode()).hexdigest()[:16],
        "padding_side": "left" if task.scores else None,
        "cluster": task.cluster or "source row",
        "versions": {name: version for name in PACKAGES if (version := version_of(name))},
    }
    if task.scores:
        made = task.settings
        used["decoding"] = {
            "max_new_tokens": made.max_new_tokens,
            "temperature": made.temperature,
            "stop": list(made.stop),
            "batch_size": made.batch_size,
        }
        used["scores"] = {name: score.normalization for name, score in task.scores.items()}
    return used


def show(content: dict[str, Any], out: Path) -> None:
    """Prints the metrics, the slices and the notes."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    label = f" on {content['label']}" if content["label"] else ", held-out rows"
    console.print(f"{content['model']}{label}: {content['rows']:,} items")
    if other := content.get("against_model"):
        unmatched = f", {other['only_here']:,} only here, {other['only_there']:,} only there"
        console.print(f"against {other['name']}: {other['matched']:,} items in common{unmatched}")
    console.print(table(content))
    for line in slice_lines(content):
        console.print(f"  {line}")
    for note in content["notes"]:
        console.print(f"note: {note}")
    console.print(f"  {out / METRICS}")


if __name__ == "__main__":
    command(main, help=usage("evaluate", KEYS, CLAIM))
