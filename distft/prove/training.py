"""Tiny models trained with every strategy, attention kernel and option, compared with one process on the CPU.

The model has a vocabulary of 49,152: sums in a dtype that is too short show there, and not with a few hundred.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

from distft.paths import conf_dir
from distft.prove import jobs
from distft.prove.place import Place
from distft.prove.proof import Line, at_most, failed, not_run, skipped
from distft.prove.series import PACKED, REFERENCE, STEPS, Case, Series, follow
from distft.run import RunFolder

Steps = Sequence[tuple[float, float]]  # loss and gradient norm of each step

WORDS = ("strategies", "attention", "options")
LEAST_SECONDS = 30.0  # to import the libraries and train a case
_CORES_OF_A_SERIES = 4  # series of cases run at the same time on an accelerator
ADAPTERS = {"lora": "reference-lora", "qlora": "reference-qlora"}  # tuning -> its reference

# Largest relative distance of a loss or norm from the CPU's: sums in another order; mantissas of 8 bits.
LIMITS = {"fp32": 2e-5, "bf16": 2e-2}
OPTIONS = ("full_recompute", "selective_recompute", "packing", "lora", "qlora", "background_save", "compile")
SPREAD = 5e-6  # between strategies on the same device in fp32


def strategies() -> list[str]:
    return sorted(file.stem for file in (conf_dir() / "strategy").glob("*.yaml"))


def cases(place: Place, words: Sequence[str]) -> list[Case]:
    """Returns the cases of these words that this machine can run."""
    found = []
    if "strategies" in words:
        for precision in LIMITS:
            found += [Case(f"strategies.{s}.{precision}", (f"strategy={s}",), precision) for s in strategies()]
    best = "bf16" if place.machine.has_accelerator else "fp32"
    if "attention" in words:
        for kernel in kernels(place):
            choice = (f"model.attention={kernel}",)
            found.append(Case(f"attention.{kernel}.training", choice, best))
            found.append(Case(f"attention.{kernel}.isolation", choice, best, "isolate"))
    if "options" in words:
        found += [Case(f"options.{name}", more, best) for name, more in options(place).items()]
        found += [
            Case(f"options.{word}", (f"tuning={word}",), best, reference=reference)
            for word, reference in adapters().items()
        ]
        background = ("checkpoint.background=true",)
        found.append(Case("options.background_save", background, best, "save_in_background"))
    return sorted(found, key=lambda case: case.compiles)  # those that may take minutes come last


def options(place: Place) -> dict[str, tuple[str, ...]]:
    """Returns the options that have a code path of their own and must not change the numbers."""
    kernel = "model.attention=varlen" if place.machine.device == "cuda" else "model.attention=sdpa"
    found: dict[str, tuple[str, ...]] = {
        "full_recompute": ("train.activation_checkpointing=full",),
        "selective_recompute": ("train.activation_checkpointing=selective",),
        "packing": PACKED,
    }
    if which("g++"):
        found["compile"] = ("train.compile=true", kernel)
    return found


def adapters() -> dict[str, str]:
    """Returns the reference of each tuning with adapters that can run here."""
    has_bitsandbytes = find_spec("bitsandbytes") is not None
    return {word: reference for word, reference in ADAPTERS.items() if word != "qlora" or has_bitsandbytes}


def kernels(place: Place) -> list[str]:
    """Returns the words of model.attention that can run here."""
    return [word for word, lacks in all_kernels(place).items() if not lacks]


def all_kernels(place: Place) -> dict[str, str]:
    """Returns every word of model.attention with what this machine lacks for it, empty for nothing."""
    cuda, accelerator = place.machine.device == "cuda", place.machine.has_accelerator
    return {
        "eager": "",
        "sdpa": "",
        "varlen": "" if cuda else "no CUDA device",
        "flex_attention": "" if accelerator else "no accelerator",
        "flash_attention_2": "" if cuda and find_spec("flash_attn") else "flash-attn is not installed",
        "flash_attention_3": "" if cuda and find_spec("flash_attn_interface") else "flash-attn-3 is not installed",
    }


def lines_of(place: Place, words: Sequence[str]) -> list[str]:
    """Returns the names of all checks of these words, the same on every machine."""
    names: list[str] = []
    if "strategies" in words:
        names += [f"strategies.{strategy}.{precision}" for precision in LIMITS for strategy in strategies()]
        names += [f"strategies.spread.{precision}" for precision in LIMITS]
    if "attention" in words:
        names += [f"attention.{kernel}.{part}" for kernel in all_kernels(place) for part in ("training", "isolation")]
    if "options" in words:
        names += [f"options.{name}" for name in OPTIONS]
    return names


def run(place: Place, words: Sequence[str]) -> Iterator[Line]:
    """Yields a line for each check of these words."""
    if "attention" in words:
        for kernel, lacks in all_kernels(place).items():
            if lacks:
                yield from (skipped(f"attention.{kernel}.{part}", lacks) for part in ("training", "isolation"))
    if "options" in words and not which("g++"):
        yield skipped("options.compile", "no C++ compiler (g++)")
    if "options" in words and "qlora" not in adapters():
        yield skipped("options.qlora", "bitsandbytes is not installed")
    reference = Series(place, "reference", [
        Case(REFERENCE, (), "fp32"),
        *(Case(name, (f"tuning={word}",), "fp32") for word, name in adapters().items()),
    ], world=1, variables=jobs.ON_CPU)  # fmt: skip
    chosen = cases(place, words)
    at_once = max(1, place.machine.cores // _CORES_OF_A_SERIES // place.machine.world)
    count = min(at_once, 4, len(chosen)) if place.machine.has_accelerator else 1
    series = [Series(place, f"series-{i + 1}", chosen[i::count]) for i in range(count)]
    follow(place, [reference, *series])
    known = {name: numbers(each) for name, each in reference.done.items() if each["state"] == "done"}
    for each in series:
        for case in each.cases:
            result = each.done.get(case.check)
            line = judge(case, result, each.run_of(case), known, reference)
            yield replace(line, seconds=(result or {}).get("seconds", 0.0))
    if "strategies" in words:
        done = {case.check: each.run_of(case) for each in series for case in each.cases if case.check in each.done}
        yield from spread(done)


def judge(
    case: Case, result: jobs.Result | None, run: RunFolder, known: Mapping[str, Steps], reference: Series
) -> Line:
    """Returns the line of a case, whether it has ended or not."""
    if result is None:
        return not_run(case.check, "no time was left")
    about = {"precision": case.precision, "overrides": " ".join(case.overrides)}
    if result["state"] != "done":
        return failed(case.check, result["error"], **about)
    if case.kind == "isolate":
        return judge_isolation(case, result, **about)
    if case.kind == "save_in_background":
        text = f"tensors of the reloaded save that differ from the live ones, of {result['tensors']}; "
        text += f"the step during the save changed {result['changed_by_next_step']}"
        if not result["changed_by_next_step"]:
            return failed(case.check, f"no proof: the step during the save changed no tensor. {text}", **about)
        return at_most(case.check, result["differ"], 0, "tensors", text, **about)
    if case.reference not in known:
        error = reference.done.get(case.reference, {}).get("error", "it did not finish")
        return failed(case.check, f"no reference: the run on the CPU failed: {error}", **about)
    mine = read_numbers(run)
    distance = apart(mine, known[case.reference])
    text = f"largest relative distance of loss or gradient norm over {STEPS} steps from one process on the CPU in fp32"
    shown = {"losses": [loss for loss, _ in mine], "norms": [norm for _, norm in mine]}
    return at_most(case.check, distance, LIMITS[case.precision], "relative", text, **about, **shown)


def judge_isolation(case: Case, result: jobs.Result, **about: Any) -> Line:
    """Returns whether packed documents are isolated: bit-equal for any neighbours, and close to each document alone."""
    if result["changed_by_neighbours"] or not result["finite"]:
        what = "logits are not finite" if not result["finite"] else "other neighbours changed the logits of a document"
        return failed(case.check, f"{what}: {result['changed_by_neighbours']}", **about)
    text = "packed documents are bit-equal for any neighbours; value: distance of packed logits from each alone"
    limit = 1e-5 if case.precision == "fp32" else 2e-2
    return at_most(case.check, result["from_alone"], limit, "of largest logit", text, **about)


def spread(done: dict[str, RunFolder]) -> Iterator[Line]:
    """Yields the largest distance between two strategies, by precision."""
    for precision in LIMITS:
        name, ending = f"strategies.spread.{precision}", f".{precision}"
        runs = {check: read_numbers(run) for check, run in done.items() if check.endswith(ending)}
        runs = {check: rows for check, rows in runs.items() if check.startswith("strategies.") and len(rows) == STEPS}
        if len(runs) < 2:
            yield failed(name, f"{len(runs)} strategies finished, and two are needed")
            continue
        pairs = {(a, b): apart(runs[a], runs[b]) for a in runs for b in runs if a < b}
        most = max(pairs, key=lambda pair: pairs[pair])
        text = f"largest relative distance between two of {len(runs)} strategies on this device: {most[0]}, {most[1]}"
        yield at_most(name, pairs[most], SPREAD if precision == "fp32" else LIMITS[precision], "relative", text)


def numbers(result: jobs.Result) -> Steps:
    return read_numbers(RunFolder(Path(result["run"])))


def read_numbers(run: RunFolder) -> Steps:
    """Returns loss and gradient norm of each step."""
    return [(row["loss"], row["grad_norm"]) for row in run.read_metrics("train")]


def apart(some: Steps, others: Steps) -> float:
    """Returns the largest relative distance of a loss or norm; infinite where a step is missing."""
    if len(some) != STEPS or len(others) != STEPS:
        return math.inf
    pairs = [(a, b) for one, other in zip(some, others, strict=True) for a, b in zip(one, other, strict=True)]
    distances = [abs(a - b) / max(abs(b), 1e-30) for a, b in pairs]
    return max(distances) if all(map(math.isfinite, distances)) else math.inf
