"""The needs of a configured run, and the settings that would run it fastest where it fits."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from distft.config import Config, ConfigError
from distft.config.model_folder import facts_of, text_facts
from distft.config.parts import Strategy
from distft.config.rules import broken_rules
from distft.config.rules.contract import Facts
from distft.paths import conf_dir
from distft.plan.activations import Batch
from distft.plan.fit import MARGIN
from distft.plan.hardware import Hardware
from distft.plan.memory import FP32_BYTES, Architecture, Sizes, linear_layers, memory_of, parts_of, shipped_strategy
from distft.plan.needs import GIB, Needs, Pace, Work, bytes_sent, needs_of, num_steps, pace_of, updated_bytes, work_of
from distft.plan.step import Lengths, forward, longest_row, on_accelerators, sizes_of, step_bytes, with_step
from distft.run import Plan

RECOMPUTED = ("none", "selective", "full")  # values of train.activation_checkpointing


@dataclass(frozen=True)
class Case:
    """A planned run, with what its estimates are made of."""

    config: Config
    plan: Plan
    facts: Architecture
    sizes: Sizes
    batch: Batch
    work: Work | None

    @classmethod
    def of(cls, config: Config, plan: Plan, accelerators: bool) -> "Case | None":
        """Returns the case of a plan; None for an architecture, optimizer or adapters that are unknown."""
        model_dir = Path(plan.model_dir) if plan.model_dir else None
        architecture = config.model.facts if config.model.tiny else config.model.architecture
        facts = text_facts(facts_of(model_dir)) if model_dir else architecture
        parts = parts_of(model_dir, architecture)
        layers = linear_layers(model_dir, architecture)
        sizes = sizes_of(config, parts, layers, plan.adapters, plan.world, plan.processes_per_node, accelerators)
        if parts is None or sizes is None or plan.is_hosted or not facts:
            return None
        mean = max(1, round(plan.tokens / max(1e-9, plan.epochs * plan.rows))) if plan.rows and plan.tokens else None
        micro = plan.micro_batch_size, plan.micro_batch_tokens
        batch = replace(forward(config, micro, Lengths(mean=mean), accelerators), tokens=max(1, plan.forward_tokens))
        try:
            return cls(config, plan, facts, sizes, batch, work_of(plan, model_dir, facts, batch))
        except ValueError:
            return None

    def pace(self, strategy: Strategy, hardware: Hardware | None) -> Pace | None:
        sent = bytes_sent(strategy, self.sizes, self.plan.accumulation)
        if hardware is None or self.work is None or sent is None:
            return None
        return pace_of(self.work, sent, updated_bytes(strategy, self.sizes), self.plan, self.batch, hardware)

    def needs(self, hardware: Hardware | None = None) -> Needs:
        strategy = self.config.strategy
        counted = self.plan.memory.get(self.config.choices["strategy"], {})
        sent = bytes_sent(strategy, self.sizes, self.plan.accumulation)
        return needs_of(self.work, counted, sent and sum(sent), self.plan, self.pace(strategy, hardware))


def has_accelerators(config: Config, hardware: Hardware | None) -> bool:
    """Returns whether a run on this hardware has accelerators; None: on this machine or cluster."""
    return on_accelerators(config) if hardware is None else hardware.accelerator


def estimate(config: Config, plan: Plan, hardware: Hardware | None = None) -> Needs:
    """Returns the needs of a run; without those that are unknown."""
    case = Case.of(config, plan, has_accelerators(config, hardware))
    if case is not None:
        return case.needs(hardware)
    counted = plan.memory.get(config.choices["strategy"], {})
    return needs_of(None, counted, None, plan, None)


@dataclass(frozen=True)
class Candidate:
    """Settings of a run that fit, with their estimates."""

    strategy: str
    recomputed: str
    micro: str  # override that sets the micro-batch
    peak: int  # bytes
    seconds: float | None  # of all steps; None without hardware, and with offload
    host: int = 0  # bytes of the host's memory

    @property
    def overrides(self) -> list[str]:
        return [f"strategy={self.strategy}", f"train.activation_checkpointing={self.recomputed}", self.micro]


def search(config: Config, plan: Plan, memory_gib: float, hardware: Hardware | None = None) -> list[Candidate]:
    """Returns all settings that fit into `memory_gib` and give the same result, the fastest first; without hardware
    those first that compute and communicate least."""
    case = Case.of(config, plan, has_accelerators(config, hardware))
    if case is None:
        raise ConfigError(["search=true: the memory of this run is not known: its architecture or optimizer"])
    found = [each for each in _candidates(case, hardware) if each[0].peak <= MARGIN * memory_gib * GIB]
    return [each for each, _ in sorted(found, key=lambda pair: pair[1]) if _is_valid(config, each)]


def _is_valid(config: Config, candidate: Candidate) -> bool:
    """Returns whether the config with these settings breaks no rule about what goes together."""
    strategy = config.strategy if candidate.strategy == config.choices["strategy"] else _shipped()[candidate.strategy]
    key, _, size = candidate.micro.removeprefix("train.").partition("=")
    train = {**config.values["train"], "activation_checkpointing": candidate.recomputed, key: int(size)}
    values = {**config.values, "train": train, "strategy": strategy.plain()}
    choices = {**config.choices, "strategy": candidate.strategy}
    return not list(broken_rules(Facts(values, choices, config.given), ()))


def _shipped() -> dict[str, Strategy]:
    return {path.stem: shipped_strategy(path) for path in sorted((conf_dir() / "strategy").glob("*.yaml"))}


def least(config: Config, plan: Plan, hardware: Hardware | None = None) -> Candidate:
    """Returns the settings with the lowest peak; ConfigError where the memory is not known."""
    return min(search(config, plan, float("inf"), hardware), key=lambda each: each.peak)


def _candidates(case: Case, hardware: Hardware | None) -> Iterator[tuple[Candidate, tuple[float, ...]]]:
    """Yields settings with their rank."""
    shipped = _shipped()
    shipped[case.config.choices["strategy"]] = case.config.strategy
    if case.plan.world == 1:
        shipped = {name: each for name, each in shipped.items() if name in ("ddp", "zero3_offload")}
    for name, strategy in shipped.items():
        for recomputed in RECOMPUTED:
            for other, micro in _micro_batches(case):
                tried = replace(
                    other,
                    batch=replace(other.batch, recomputed=recomputed),
                    work=other.work and replace(other.work, again=_again(other.work, recomputed)),
                )
                counted = memory_of(strategy, tried.sizes)
                if counted is None:
                    continue
                peak = with_step({name: counted}, step_bytes(tried.config, tried.facts, tried.batch))[name]["peak"]
                pace = tried.pace(strategy, hardware)
                seconds = pace.seconds * num_steps(tried.plan) if pace and not counted["host"] else None
                sent = sum(bytes_sent(strategy, tried.sizes, tried.plan.accumulation) or (0.0, 0.0))
                offloads = float(counted["host"] > 0)
                rank = (offloads, seconds or 0.0, RECOMPUTED.index(recomputed), sent, tried.plan.accumulation)
                yield Candidate(name, recomputed, micro, peak, seconds, counted["host"]), rank


def _again(work: Work, recomputed: str) -> float:
    return {"none": 0.0, "selective": 0.0, "full": work.of_blocks}[recomputed]


def _micro_batches(case: Case) -> Iterator[tuple[Case, str]]:
    """Yields the case with other micro-batches, and the override that sets each, up to the whole step of a process:
    powers of two, those in rows that divide the step."""
    plan, batch, rows = case.plan, case.batch, case.config.train.global_batch_size
    of_process = max(1, rows // plan.world) if rows and not case.config.train.global_batch_tokens else None
    longest = batch.tokens // plan.micro_batch_size if plan.micro_batch_size else longest_row(case.config)
    of_step = max(1, plan.tokens // num_steps(plan) // plan.world) if plan.tokens else batch.tokens
    size = 1
    while True:
        if plan.micro_batch_size:
            tokens, accumulation = size * longest, ceil((of_process or size) / size)
            word, documents = f"train.micro_batch_size={size}", size
        else:
            tokens = min(size * longest, (of_process or size) * longest)
            accumulation = max(1, ceil(of_step / (size * longest)))
            word, documents = f"train.micro_batch_tokens={size * longest}", batch.documents * tokens // batch.tokens
        if not plan.micro_batch_size or (of_process or size) % size == 0:
            changed = replace(plan, accumulation=accumulation, forward_tokens=tokens)
            yield replace(case, plan=changed, batch=replace(batch, tokens=tokens, documents=max(1, documents))), word
        if accumulation == 1:
            return
        size *= 2


def traced(overrides: Sequence[str], plan: Plan, compute_bytes: int) -> Plan:
    """Returns the plan with activations as a trace of the model counts them, in a process with torch.

    The trace is on a CPU, whose loss has smaller chunks than that of an accelerator, so the loss stays as counted.
    """
    precision = "bf16" if compute_bytes < FP32_BYTES else "fp32"
    command = [sys.executable, "-m", "distft.step_trace", *overrides, f"train.precision={precision}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.startswith("  ")]
        raise ConfigError(lines or [f"exact=true: the trace failed: {done.stderr.strip()[-500:]}"])
    found: Mapping[str, int] = json.loads(done.stdout.strip().splitlines()[-1])
    loss = next((counted["loss"] for counted in plan.memory.values() if "loss" in counted), found["loss"])
    return replace(plan, memory=with_step(plan.memory, {"activations": found["activations"], "loss": loss}))
