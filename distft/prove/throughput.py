"""Speed, memory and waits of random models of real sizes, with rows packed to whole micro-batches."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distft.config import ConfigError
from distft.config.freeze import chosen_words
from distft.plan.memory import Architecture
from distft.prove import jobs
from distft.prove.place import Place
from distft.prove.proof import Line, Status, at_most, failed, not_run, skipped
from distft.run import Plan, read_json

LEAST_SECONDS = {"cpu": 12.0, "accelerator": 40.0}  # to start a run and train its steps
_MEASURES = ("tokens_per_second", "mfu", "host_waits", "idle_share", "memory", "peak_memory", "planned_peak")
_NEAR = 0.05  # largest relative distance from the plan
_NEAR_PEAK = 0.15  # of the peak, whose activations are estimated
_TIMED = 4  # steps
_FITS = 0.98  # share of a step's micro-batches that rows of mixed lengths fill; more would need another one

LLAMA = {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}
LLAMA_8B = LLAMA | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
LLAMA_1B = LLAMA | {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "tie_word_embeddings": True,
}  # fmt: skip
QWEN_06B = {
    "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
SMALL = {
    "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "vocab_size": 8192,
}  # fmt: skip
SMALL_TOKENS = 128  # of a micro-batch


@dataclass(frozen=True)
class Speed:
    """One measured run. `word`: its name in `checks=`; several runs may share it."""

    word: str
    name: str
    model: str  # word of conf/model
    architecture: Architecture
    tokens: int  # of a micro-batch
    micro_batches: int  # of a step and process
    lengths: str  # whole: rows of `row` tokens; mixed: log-normal, with a median of row / 20
    row: int
    overrides: tuple[str, ...]
    on_cuda: tuple[str, ...] = ()  # further overrides; on a CPU compiling would take longest
    reference: str = ""  # target, or a published figure


SPEEDS = (
    Speed(
        "lora_8b", "lora_8b", "llama3_8b", LLAMA_8B, 8192, 2, "whole", 4096,
        ("tuning=lora", "train.activation_checkpointing=selective"), ("model.attention=varlen",),
        "target on one H200: 13,900 (45% of 989 TFLOP/s); NeMo AutoModel publishes 12,473 on one H100",
    ),
    Speed(
        "lora_8b", "lora_8b_compiled", "llama3_8b", LLAMA_8B, 8192, 2, "whole", 4096,
        ("tuning=lora",), ("train.compile=true", "model.attention=varlen"),
        "target on one H200: 13,900 (45% of 989 TFLOP/s); NeMo AutoModel publishes 12,473 on one H100",
    ),
    Speed(
        "full_1b", "full_1b", "llama3_8b", LLAMA_1B, 8192, 2, "mixed", 4096, (), (),
        "target on one H200: 45% of 989 TFLOP/s",
    ),
    Speed(
        "full_1b", "full_1b_compiled", "llama3_8b", LLAMA_1B, 8192, 2, "mixed", 4096, (),
        ("train.compile=true", "model.attention=varlen"), "target on one H200: 45% of 989 TFLOP/s",
    ),
    Speed(
        "full_06b", "full_06b", "qwen3_8b", QWEN_06B, 8192, 2, "whole", 8192, (),
        ("train.compile=true", "model.attention=varlen"), "target on one H200: 26,000",
    ),
    Speed(
        "full_8b", "full_8b", "llama3_8b", LLAMA_8B, 8192, 1, "whole", 4096,
        ("train.activation_checkpointing=full",), ("model.attention=varlen",),
        "torchtitan publishes 5,762 per device for full fine-tuning of 8B on 8 H100, 6,667 compiled",
    ),
    Speed("zero2_1b", "zero2_1b", "llama3_8b", LLAMA_1B, 8192, 2, "mixed", 4096, ("strategy=zero2",), ()),
)  # fmt: skip
WORDS = tuple(dict.fromkeys(speed.word for speed in SPEEDS))


def of_word(place: Place, word: str) -> list[Speed]:
    """Returns the runs of a word; on a CPU only the first, since small shapes do not distinguish the others."""
    found = [speed for speed in SPEEDS if speed.word == word]
    return found if place.machine.has_accelerator else found[:1]


def lines_of(place: Place, words: Sequence[str]) -> list[str]:
    return [f"{s.word}.{label(s)}{m}" for w in words for s in of_word(place, w) for m in _MEASURES]


def label(speed: Speed) -> str:
    """Returns the part of a check's name that distinguishes the runs of a word; empty for the main one."""
    return "" if speed.name == speed.word else f"{speed.name.removeprefix(f'{speed.word}_')}."


def run(place: Place, words: Sequence[str]) -> Iterator[Line]:
    for speed in (speed for word in words for speed in of_word(place, word)):
        least = LEAST_SECONDS["accelerator" if place.machine.has_accelerator else "cpu"]
        if place.seconds_left < least:
            text = f"{max(0.0, place.seconds_left):.0f} s were left, {least:.0f} are needed"
            yield from (not_run(f"{speed.word}.{label(speed)}{measure}", text) for measure in _MEASURES)
            continue
        try:
            yield from measure_one(place, speed)
        except (ConfigError, OSError) as error:
            yield from nothing_of(f"{speed.word}.{label(speed)}", str(error))


def measure_one(place: Place, speed: Speed) -> Iterator[Line]:
    """Trains one run and yields its lines."""
    prefix = f"{speed.word}.{label(speed)}"
    job = jobs.freeze(place, speed.name, "distft.prove.measured.work", *settings(place, speed))
    chosen = chosen_words(job.config.read_text())["strategy"]
    if lacks := too_large(job.read_plan(), chosen, place):
        yield from (skipped(f"{prefix}{measure}", lacks) for measure in _MEASURES)
        return
    child = jobs.start(place, job)
    code = child.wait(place.seconds_left)
    file = job.path / jobs.MEASURED
    if code != 0 or not file.is_file():
        yield from nothing_of(prefix, "" if code is None else jobs.why(job, 1, child))
        return
    found = {**read_json(file), "strategy": chosen}
    yield from lines(prefix, speed, found, job.read_plan(), place)


def too_large(plan: Plan, strategy: str, place: Place) -> str:
    """Returns why a model cannot fit, when its persistent state exceeds the memory of a device; empty if it may."""
    there, counted = place.machine.facts.get("device_memory_gib"), plan.memory.get(strategy)
    if there is None or counted is None or held_gib(counted) < there:
        return ""
    return f"weights, gradients and optimizer need {held_gib(counted):.0f} GiB, a device has {there:.0f}"


def held_gib(counted: Mapping[str, int]) -> float:
    """Returns the planned GiB of parameters, gradients and optimizer state on a device."""
    return (counted["parameters"] + counted["gradients"] + counted["optimizer"] - counted["host"]) / 2**30


def nothing_of(prefix: str, error: str) -> Iterator[Line]:
    """Yields the lines of a run without measurements. The first one fails with the error; without one, time ran out."""
    first, *others = (f"{prefix}{measure}" for measure in _MEASURES)
    yield failed(first, error) if error else not_run(first, "no time was left")
    yield from (not_run(name, f"the run failed: see {first}" if error else "no time was left") for name in others)


def settings(place: Place, speed: Speed) -> tuple[list[str], jobs.RandomRows, Architecture]:
    """Returns overrides, rows and architecture, scaled down on a CPU."""
    machine = place.machine
    facts, tokens, row = speed.architecture, speed.tokens, speed.row
    overrides = [f"model={speed.model}", *speed.overrides]
    if machine.device == "cuda":
        overrides += speed.on_cuda
    if not machine.has_accelerator:
        facts = {**facts, **SMALL, "num_hidden_layers": 2 + facts["num_hidden_layers"] // 16}
        row = SMALL_TOKENS * row // tokens
        tokens = SMALL_TOKENS
    steps = jobs.WARM + _TIMED + jobs.TRACED
    whole = speed.lengths == "whole"
    of_step = int(tokens * speed.micro_batches * machine.world * (1.0 if whole else _FITS))
    lengths = (row,) if whole else tuple(mixed(row))
    rows = -(-of_step * (steps + 1) // max(1, sum(lengths) // len(lengths)))
    overrides += [
        "eval=none", f"data.max_length={row}", "data.packing=true", f"train.micro_batch_tokens={tokens}",
        "train.global_batch_size=null", f"train.global_batch_tokens={of_step}", f"train.max_steps={steps}",
        "train.epochs=null", "schedule=constant", "train.precision=bf16",
    ]  # fmt: skip
    if not any(each.startswith("strategy=") for each in overrides):
        overrides.append("strategy=fsdp" if machine.world > 1 else "strategy=ddp")
    facts: Architecture = {"tie_word_embeddings": False, "rope_scaling": None, **facts}
    return overrides, jobs.RandomRows(lengths, rows, facts["vocab_size"]), facts


def mixed(row: int) -> Iterator[int]:
    """Yields lengths like those of an instruction dataset: log-normal, cut at `row`."""
    draw = random.Random(1)
    for _ in range(1024):
        yield max(2, min(row, round(row / 20 * draw.lognormvariate(0.0, 1.0))))


def lines(prefix: str, speed: Speed, found: jobs.Measured, plan: Plan, place: Place) -> Iterator[Line]:
    """Yields the measurements of one run as lines."""
    reference = speed.reference if place.machine.has_accelerator else ""
    per_device = found["tokens"] / found["seconds"] / found["processes"]
    text = f"real tokens per second and process, over {found['steps']} steps" + (f"; {reference}" if reference else "")
    about = {key: found[key] for key in ("processes", "first_step_seconds", "ready_seconds", "losses")}
    about |= {
        "attention": found["effective"]["attention"],
        "parameters": plan.parameters,
        "adapters": plan.adapters,
        "overrides": " ".join(speed.overrides),
    }
    yield measure(f"{prefix}tokens_per_second", per_device, "tokens/s", text, **about)
    yield utilisation(f"{prefix}mfu", found)
    name = f"{prefix}host_waits"
    if "waits_per_step" in found:
        text = "host waits of a steady step, counted in a trace"
        calls = {"calls": ", ".join(f"{key} {value}" for key, value in found["waits"].items())}
        yield at_most(
            name, found["waits_per_step"], 1.0, "per step", text, other_threads=found["waits_elsewhere"], **calls
        )
    else:
        yield skipped(name, "no accelerator")
    if found.get("idle_share") is not None:
        kinds = {f"seconds of {kind}": round(seconds, 4) for kind, seconds in found["kinds"].items()}
        longest = {f"kernel {i}": f"{n} ({s:.4f} s, {k} calls)" for i, (n, s, k) in enumerate(found["longest"], 1)}
        text = "share of device time in two traced steps; tracing slows the host; target: at most 3%"
        yield measure(f"{prefix}idle_share", found["idle_share"], "of the time", text, **kinds, **longest)
    else:
        yield skipped(f"{prefix}idle_share", "no accelerator")
    yield planned(f"{prefix}memory", found, plan, place)
    if place.machine.has_accelerator:
        text = "peak allocated memory, with activations and gathered weights"
        yield measure(f"{prefix}peak_memory", found["peak_gib"], "GiB", text, reserved_gib=found["reserved_gib"])
    else:
        text = "peak resident memory of a process, with libraries"
        yield measure(f"{prefix}peak_memory", found["peak_gib"], "GiB", text)
    yield planned_peak(f"{prefix}planned_peak", found, plan, place)


def measure(name: str, value: float, unit: str, text: str, **more: Any) -> Line:
    """Returns the line of a measurement without an expected value; NaN and negative values fail."""
    status: Status = "pass" if value == value and value >= 0 else "fail"
    return Line(name, status, value, unit, detail={"text": text, **more})


def utilisation(name: str, found: jobs.Measured) -> Line:
    if not found["peak_flops"]:
        return skipped(name, "no accelerator: no published peak FLOP/s")
    per_second = found["flops"] / found["seconds"] / found["processes"]
    share = per_second / found["peak_flops"]
    text = f"of {found['peak_flops'] / 1e12:.0f} TFLOP/s ({found['peak_source']}); recomputation is not counted"
    line = measure(name, share, "of peak", text, tflops=per_second / 1e12)
    return line if share <= 1 else failed(name, f"{share:.0%} is impossible: FLOPs or seconds are wrong. {text}")


def planned(name: str, found: jobs.Measured, plan: Plan, place: Place) -> Line:
    """Returns the relative distance of the memory before an update from the planned persistent state."""
    counted = plan.memory.get(found["strategy"])
    if counted is None:
        return skipped(name, "the plan has no memory estimate for this run")
    held, wanted = found["held_bytes"] / 2**30, held_gib(counted)
    off = abs(held / wanted - 1)
    what = "allocated" if place.machine.has_accelerator else "held by live tensors"
    text = f"relative distance from the plan of memory {what} before the update, without activations"
    gib = {"measured_gib": held, "planned_gib": wanted}
    return at_most(name, off, _NEAR, "of the plan", text, **gib)


def planned_peak(name: str, found: jobs.Measured, plan: Plan, place: Place) -> Line:
    """Returns the relative distance of the peak on an accelerator from the planned one."""
    counted = plan.memory.get(found["strategy"], {})
    if not place.machine.has_accelerator or "peak" not in counted:
        return skipped(name, "no accelerator" if "peak" in counted else "the plan has no estimate for this run")
    wanted = counted["peak"] / 2**30
    text = "relative distance of the peak allocated memory from the planned one (distft plan), activations included"
    gib = {"measured_gib": found["peak_gib"], "planned_gib": wanted}
    return at_most(name, abs(found["peak_gib"] / wanted - 1), _NEAR_PEAK, "of the plan", text, **gib)
