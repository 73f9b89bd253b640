"""Results of benchmarks: metrics and settings of each task, and the score of each question, from what lm-eval gives."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from distft.evaluate.metrics_file import Benchmark, BenchmarkMetric


def summary(found: Mapping[str, Any]) -> dict[str, Benchmark]:
    """Returns the benchmarks of metrics.json from lm-eval's results: task -> metrics, and what they depend on."""
    tasks: dict[str, Benchmark] = {}
    for task, values in found["results"].items():
        config = found["configs"].get(task, {})
        metrics: dict[str, BenchmarkMetric] = {}
        for key, value in values.items():
            name, _, rest = key.partition(",")
            if isinstance(value, float | int) and rest and not name.endswith("_stderr"):
                stderr = values.get(f"{name}_stderr,{rest}")
                suffix = "" if rest == "none" else f",{rest}"
                metrics[name + suffix] = {"value": value, "stderr": stderr if isinstance(stderr, float) else None}
        texts = {key: str(config.get(key)) for key in ("doc_to_text", "doc_to_target", "doc_to_choice", "description")}
        tasks[task] = {
            "metrics": metrics,
            "n": len(found["samples"].get(task, [])),
            "num_fewshot": found["n-shot"].get(task),
            "version": found["versions"].get(task),
            "template_hash": hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:16],
            "stop": (config.get("generation_kwargs") or {}).get("until"),
        }
    return tasks


def item_scores(found: Mapping[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """Returns `task/metric` -> {ids, scores}: of the samples whose metric is a number, for paired differences."""
    scores: dict[str, dict[str, list[Any]]] = {}
    for task, samples in found["samples"].items():
        for sample in samples:
            for metric in sample.get("metrics", []):
                value = sample.get(metric)
                if isinstance(value, bool | int | float):
                    each = scores.setdefault(f"{task}/{metric}", {"ids": [], "scores": []})
                    each["ids"].append(f"{sample['doc_id']} {sample.get('doc_hash')}")
                    each["scores"].append(float(value))
    return scores


def question_lines(found: Mapping[str, Any]) -> list[dict[str, object]]:
    """Returns the lines of questions.jsonl: task, id, hash, target, responses (log-likelihoods or texts) and scores."""
    lines = []
    for task, samples in found["samples"].items():
        for sample in sorted(samples, key=lambda each: each["doc_id"]):
            line = {
                "task": task,
                "id": sample["doc_id"],
                "hash": sample.get("doc_hash"),
                "target": sample.get("target"),
                "responses": [each[0] if len(each) == 1 else each for each in sample["resps"]],
            }
            scores = {
                name: sample[name] for name in sample.get("metrics", []) if isinstance(sample.get(name), int | float)
            }
            lines.append(line | scores)
    return lines
