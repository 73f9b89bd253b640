"""What an evaluation writes and prints: metrics.json, items.jsonl, and a table.

metrics.json: `{step, at, rows, metrics: {name: {value, stderr, low, high, n, clusters}}, slices, against, ...}`; null
for what is not known. items.jsonl has a line for each item, questions.jsonl for each question of a benchmark.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from distft.evaluate.answers import Answered
from distft.evaluate.items import Item, plain
from distft.evaluate.metrics import FEW, Comparison, Evaluation, verdict
from distft.evaluate.metrics_file import (
    Benchmark,
    BenchmarkMetric,
    DifferenceEntry,
    MetricEntry,
    MetricsFile,
    SliceEntry,
    difference_entry,
    metric_entry,
)
from distft.run import json_text, read_json, write_json
from distft.tasks.selection import goal_of

METRICS, ITEMS, QUESTIONS = "metrics.json", "items.jsonl", "questions.jsonl"
JUDGMENTS = "judgments.jsonl"
NORMAL = 1.959963984540054  # standard deviations of 95%
PERCENT = ("accuracy", "exact_match", "f1", "regex", "json_valid", "json_schema", "answer_cut", "answer_empty")


@dataclass(frozen=True)
class Results:
    """All that one evaluation found. settings: what the numbers depend on. notes: for the user."""

    name: str
    step: int
    at: str
    items: Sequence[Item]
    evaluation: Evaluation
    sums: Mapping[str, Sequence[float]]
    answers: Sequence[Answered]
    slices: dict[str, dict[str, SliceEntry]]
    columns: Mapping[str, Sequence[Any]]
    settings: Mapping[str, object]
    label: str | None = None
    comparison: Comparison | None = None
    against: str | None = None
    benchmarks: dict[str, Benchmark] = field(default_factory=dict)
    questions: Sequence[Evaluation] = ()  # of the benchmarks, one metric each
    responses: Sequence[Mapping[str, object]] = ()  # to the questions
    judge: Mapping[str, object] | None = None  # of metrics.json
    judgments: Sequence[Mapping[str, object]] = ()  # lines of judgments.jsonl
    notes: Sequence[str] = ()


def as_json(results: Results) -> MetricsFile:
    """Returns the content of metrics.json."""
    found = {**results.evaluation.estimates(), **results.evaluation.whole} if results.items else {}
    metrics = {name: metric_entry(each) for name, each in found.items()}
    content: MetricsFile = {
        "step": results.step,
        "at": results.at,
        "model": results.name,
        "label": results.label,
        "rows": len(results.items),
        "metrics": metrics,
        "slices": results.slices,
        "against": _against(results),
        "benchmarks": results.benchmarks,
        "settings": results.settings,
        "notes": list(results.notes),
    }
    if results.judge:
        content["judge"] = results.judge
    if found := results.comparison:
        content["against_model"] = {
            "name": results.against,
            "matched": found.matched,
            "only_here": found.only_ours,
            "only_there": found.only_theirs,
        }
    return content


def _against(results: Results) -> dict[str, DifferenceEntry]:
    found = results.comparison
    if found is None:
        return {}
    all_metrics = [metric for each in (results.evaluation, *results.questions) for metric in each.metrics]
    lower = {name: goal_of(name, "auto") == "minimize" for name in results.evaluation.whole}
    lower |= {metric.name: metric.lower_is_better for metric in all_metrics}
    verdicts = {name: verdict(lower[name], each) for name, each in found.differences.items()}
    if "loss" in verdicts and "perplexity" in verdicts:
        verdicts["perplexity"] = verdicts["loss"]  # one is a function of the other
    return {
        name: difference_entry(each, found.theirs[name], verdicts[name]) for name, each in found.differences.items()
    }


def item_lines(results: Results) -> Iterator[Mapping[str, object]]:
    """Yields the lines of items.jsonl: where an item is from, its sums, and its answer with the scores."""
    scored = [metric for metric in results.evaluation.metrics if metric.counts.shape[1] == 2]
    scored = scored[3:] if "loss" in results.sums else scored  # loss, perplexity and accuracy are in the sums
    for i, item in enumerate(results.items):
        line: dict[str, object] = {"id": item.id, "source": item.source, "line": item.line, "tokens": item.length}
        names = {"loss": "loss_sum", "targets": "target_tokens", "correct": "correct", "weight": "target_weight"}
        for name, shown in names.items():
            if name in results.sums:
                value = float(results.sums[name][i])
                line[shown] = value if name in ("loss", "weight") else int(value)
        line |= {name: plain(values[i]) for name, values in results.columns.items() if name not in line}
        if results.answers:
            answer = results.answers[i]
            line |= {"answer": answer.text, "expected": answer.expected, "stopped": answer.stopped}
            line |= {metric.name: float(metric.counts[i, 0]) for metric in scored}
        yield line


def write(results: Results, out: Path) -> MetricsFile:
    """Writes the files by renames, metrics.json last; returns its content."""
    out.mkdir(parents=True, exist_ok=True)
    _write_lines(item_lines(results), out / ITEMS)
    if results.responses:
        _write_lines(results.responses, out / QUESTIONS)
    if results.judgments:
        _write_lines(results.judgments, out / JUDGMENTS)
    content = as_json(results)
    if (before := out / METRICS).is_file():  # benchmarks take long, and the weights are the same
        with suppress(ValueError):
            earlier = read_json(before)
            content["benchmarks"] = (earlier.get("benchmarks") or {}) | content["benchmarks"]
    write_json(out / METRICS, content)
    return content


def _write_lines(lines: Iterable[Mapping[str, object]], file: Path) -> None:
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as opened:
        for line in lines:
            opened.write(json_text(line, ensure_ascii=False) + "\n")
    partial.replace(file)


def table(content: MetricsFile) -> Table:
    """Returns the metrics as a table, with the difference to another model where there is one."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    against = content["against"]
    for head in ("metric", "value", "± 95%", *(("against", "difference", "95% interval", "p") if against else ())):
        shown.add_column(head, justify="left" if head == "metric" else "right", no_wrap=True)
    rows = [*content["metrics"].items(), *((name, found) for _, name, found in question_metrics(content))]
    for name, found in rows:
        row = (number(found["value"], name), number(half_width(found), name), *_difference(name, against.get(name)))
        shown.add_row(name, *row)
    return shown


def question_metrics(content: MetricsFile) -> list[tuple[str, str, BenchmarkMetric]]:
    """Returns (key in metrics.json, `task/metric`, numbers) of the benchmarks.

    Where lm-eval gives no scores of questions, the interval is that of a normal distribution.
    """
    found = []
    for task, each in content["benchmarks"].items():
        for metric, numbers in each["metrics"].items():
            stderr = numbers["stderr"]
            high = None if stderr is None else numbers["value"] + NORMAL * stderr
            shown: BenchmarkMetric = numbers if "high" in numbers else {**numbers, "high": high}
            found.append((f"benchmarks.{task}.metrics.{metric}", f"{task}/{metric}", shown))
    return found


def _difference(name: str, other: DifferenceEntry | None) -> list[str]:
    if other is None:
        return []
    interval = "" if other["low"] is None else f"{number(other['low'], name)} to {number(other['high'], name)}"
    p = "" if other["p"] is None else f"{other['p']:.3f}" if other["p"] >= 0.001 else "<0.001"
    return [number(other["theirs"], name), number(other["difference"], name, sign=True), interval, p]


def verdict_lines(content: MetricsFile) -> Iterator[str]:
    """Yields what the differences show: `loss: better`, or how many items would show one of this size."""
    for name, found in content["against"].items():
        if name != "perplexity":  # that of the loss
            yield f"{name}: {found['verdict']}"


def judge_lines(content: MetricsFile) -> Iterator[str]:
    """Yields what a judge found: the win rate with its interval, how it behaved, and what it cost."""
    found = content.get("judge")
    if not found:
        return
    rate, name = found["win_rate"], f"judge {found['settings']['judge']}"
    if rate is not None:
        interval = f" ({rate['low']:.1%} to {rate['high']:.1%})" if rate["low"] is not None else ""
        p = f", p {found['p']:.3f}" if found["p"] is not None else ""
        yield f"{name}: wins {rate['value']:.1%}{interval} of {found['n']:,} pairs, ties as half{p}: {found['verdict']}"
    counts = f"{found['wins']:,} won, {found['losses']:,} lost, {found['ties']:,} tied"
    counts += f", {found['orders_disagree']:,} of them since the orders disagree" if found["orders_disagree"] else ""
    yield f"{name}: {counts}" + (f", {found['unreadable']:,} unreadable" if found["unreadable"] else "")
    shown = {"first_answer": "the answer shown first won", "longer_answer": "the longer answer won"}
    if biases := [f"{text} {found[key]:.0%}" for key, text in shown.items() if found[key] is not None]:
        yield f"{name}: {', '.join(biases)}"
    cost = found["cost"]
    price = f", ${cost['price']:.4f}" if cost["price"] is not None else ""
    tokens = f", {cost['input_tokens']:,} tokens read and {cost['output_tokens']:,} written" * bool(
        cost["input_tokens"]
    )
    yield f"{name}: {cost['asked']:,} questions asked, {cost['cached']:,} known before{tokens}{price}"


def slice_lines(content: MetricsFile) -> Iterator[str]:
    """Yields a line for each value of each slice, with its first metric that is a rate or loss."""
    for name, values in content["slices"].items():
        for value, found in values.items():
            parts = [
                f"{metric} {number(each['value'], metric)}{_half(each, metric)}"
                for metric, each in found["metrics"].items()
                if not metric.startswith("answer_") and metric != "perplexity" and number(each["value"], metric)
            ]
            few = f", fewer than {FEW}: uncertain" if found["few"] else ""
            yield f"{name} {value}: {', '.join(parts)} (n {found['n']}{few})"


def _half(found: MetricEntry, metric: str) -> str:
    half = half_width(found)
    return "" if half is None else f" ± {number(half, metric)}"


def half_width(found: MetricEntry | BenchmarkMetric) -> float | None:
    """Returns half of the 95% interval; of a share that ends at 0 or 1, the side that does not."""
    ends = [abs(end - found["value"]) for end in (found.get("low"), found.get("high")) if end is not None]
    return max(ends, default=None)


def number(value: float | None, name: str, sign: bool = False) -> str:
    """Returns a value of a metric as text; shares in percent."""
    if value is None or not math.isfinite(value):
        return ""
    plus = "+" if sign else ""
    if name in PERCENT or name.startswith("rouge") or name.rpartition("/")[2].startswith(("acc", "exact_match")):
        return f"{value:{plus}.1%}"
    return f"{value:{plus}.4f}" if abs(value) < 10 else f"{value:{plus},.2f}"
