"""Operations are those that a run counts, bytes those of the collectives, and time follows the hardware."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distft.config import compose
from distft.models.build import architecture, skeleton
from distft.models.flops import Flops
from distft.paths import conf_dir
from distft.plan import make_plan
from distft.plan.activations import Batch
from distft.plan.estimate import Candidate, Case, estimate, search
from distft.plan.fit import MARGIN
from distft.plan.hardware import find_hardware
from distft.plan.memory import Sizes, parts_of, shipped_strategy
from distft.plan.needs import GIB, bytes_sent, work_of
from tests.support.train_cases import part

MODELS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))


@pytest.fixture
def rows(tmp_path: Path) -> list[str]:
    """Rows of one length each, by the estimate of an unprepared plan."""
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a few words of a question", "completion": "and of its answer"}\n' * 4000)
    return [f"data.train={file}", f"cache_dir={tmp_path}", "data.eval=null", "data.max_length=1024"]


def case_of(overrides: list[str], hardware: str | None = None) -> Case:
    found = find_hardware(hardware) if hardware else None
    config = compose(overrides)
    case = Case.of(config, make_plan(config, accelerators=found is not None), found is not None)
    assert case is not None
    return case


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_operations_are_those_that_a_run_counts(model: str, rows: list[str]) -> None:
    case = case_of([*rows, f"model={model}"])
    lengths, targets = np.array([300, 1800, 900]), np.array([20, 900, 1])
    tokens = int(lengths.sum())
    pairs = lengths * (lengths + 1) / 2
    plan = replace(case.plan, tokens=tokens, attended=float(pairs.sum() / tokens), targets=int(targets.sum()))
    found = work_of(plan, None, case.facts, case.batch)
    counted = Flops.of(skeleton(architecture(None, case.facts), "auto")).of_rows(lengths, targets).sum()
    assert found is not None
    has_window = case.facts.get("sliding_window") and case.facts["sliding_window"] < 1800
    assert found.flops == pytest.approx(counted, rel=0.03 if has_window else 1e-9), "windows see a mean length"


def test_recomputing_and_adapters_change_the_operations(rows: list[str]) -> None:
    full = case_of([*rows, "model=llama3_8b", "train.activation_checkpointing=full"])
    lora = case_of([*rows, "model=llama3_8b", "tuning=lora"])
    assert full.work and lora.work and (full.work.backward, lora.work.backward) == (2.0, 1.0)
    assert 0.8 < full.work.again < 1.0 and lora.work.again == 0.0
    assert lora.work.flops > full.work.flops, "adapters are products too"


NEEDED = {  # of P parameters on 4 processes and 3 micro-batches, as tests/train/test_step.py counts the collectives
    "ddp": lambda p: 2 * 4 * p.total,
    "zero1": lambda p: 4 * p.total + 2 * p.total,
    "zero2": lambda p: 3 * 4 * p.total + 2 * p.total,
    "zero3": lambda p: 3 * (4 + 2 * 2) * p.total,
    "fsdp": lambda p: 3 * 4 * p.total + 2 * (p.outside + 3 * (2 * (p.total - p.outside) - p.block)),
}


@pytest.mark.parametrize("name", NEEDED)
def test_bytes_are_those_of_a_ring(name: str) -> None:
    parts = parts_of(None, part("model", "llama3_8b")["architecture"])
    assert parts is not None
    sizes = Sizes(parts.total, parts.total, 8, 2, 4, 4, parts)
    strategy = shipped_strategy(conf_dir() / "strategy" / f"{name}.yaml")
    assert bytes_sent(strategy, sizes, 3) == pytest.approx((0.75 * NEEDED[name](parts), 0.0))
    assert bytes_sent(strategy, replace(sizes, node=2), 3) == pytest.approx((0.0, 0.75 * NEEDED[name](parts)))
    assert bytes_sent(strategy, replace(sizes, world=1, node=1), 3) == (0.0, 0.0)


def test_hsdp_sends_what_its_two_groups_send() -> None:
    parts = parts_of(None, part("model", "llama3_8b")["architecture"])
    assert parts is not None
    sizes = Sizes(parts.total, parts.total, 8, 2, 8, 4, parts)
    fsdp, ddp, hsdp = (
        bytes_sent(shipped_strategy(conf_dir() / "strategy" / f"{name}.yaml"), each, 1)
        for name, each in (("fsdp", replace(sizes, world=4)), ("ddp", replace(sizes, world=2)), ("hsdp", sizes))
    )
    assert fsdp and ddp and hsdp == pytest.approx((fsdp[0], ddp[0] / 4)), "within machines, and between two"


def test_time_follows_the_hardware(rows: list[str]) -> None:
    typed = [*rows, "model=llama3_8b", "strategy=fsdp", "launcher.processes_per_node=8", "train.global_batch_size=512"]
    config = compose(typed)
    plan = make_plan(config, accelerators=True)
    h100, a100 = (estimate(config, plan, find_hardware(name)) for name in ("h100", "a100"))
    assert h100.flops == a100.flops and h100.seconds and a100.seconds and h100.seconds < a100.seconds
    assert h100.device_hours == pytest.approx(8 * h100.seconds / 3600) and h100.price is None
    assert h100.mfu and 0.05 < h100.mfu <= 0.4
    assert h100.tokens_per_second == pytest.approx(plan.tokens / h100.seconds)
    slow = find_hardware("h100").model_copy(update={"link_gb_s": 1.0, "price_per_hour": 2.0})
    found = estimate(config, plan, slow)
    assert found.bound == "communication" and found.device_hours and found.price == 2.0 * found.device_hours


def test_without_hardware_only_memory_and_operations_are_known(rows: list[str]) -> None:
    config = compose([*rows, "model=llama3_8b"])
    found = estimate(config, make_plan(config))
    assert found.flops and found.bytes == 0.0 and found.seconds is None and found.price is None
    parts = ("parameters", "gradients", "optimizer", "gathered", "activations", "loss")
    assert found.memory_gib["peak"] == pytest.approx(sum(found.memory_gib[part] for part in parts))


def found_in(overrides: list[str], memory: float, hardware: str | None = None) -> list[Candidate]:
    config, on = compose(overrides), find_hardware(hardware) if hardware else None
    return search(config, make_plan(config, accelerators=on is not None), memory, on)


def test_the_search_finds_what_fits_the_fastest_first(rows: list[str]) -> None:
    typed = [*rows, "model=llama3_8b", "launcher.processes_per_node=8", "train.global_batch_size=512"]
    found = found_in(typed, 79.6, "h100")
    assert found and all(each.peak <= MARGIN * 79.6 * GIB for each in found)
    times = [each.seconds for each in found if each.seconds]
    assert times == sorted(times) and [each.seconds for each in found[len(times) :]] == [None] * (
        len(found) - len(times)
    )
    assert "ddp" not in {each.strategy for each in found}, "128 GiB of state"
    assert not found_in(typed, 2.0)
    best = found[0]
    config = compose([*typed, *best.overrides])
    plan = make_plan(config, accelerators=True)
    assert plan.memory[best.strategy]["peak"] == best.peak, "the overrides give the run that was estimated"
    assert estimate(config, plan, find_hardware("h100")).seconds == pytest.approx(best.seconds)


def test_one_process_needs_no_sharding(rows: list[str]) -> None:
    found = found_in([*rows, "model=gpt2"], 80.0)
    assert {each.strategy for each in found} == {"ddp", "zero3_offload"} and found[0].strategy == "ddp"
    assert found[0].recomputed == "none", "without hardware those first that compute least"


def test_a_batch_knows_its_copies() -> None:
    assert Batch(8, 4, "none", documents=2, is_accelerator=False).copies_attention
    assert not Batch(8, 4, "none", documents=2).copies_attention


def test_found_micro_batches_divide_the_step(rows: list[str]) -> None:
    typed = [*rows, "model=gpt2", "data.packing=false", "train.micro_batch_size=2", "train.global_batch_size=24"]
    found = found_in([*typed, "launcher.processes_per_node=2"], 80.0)
    assert {each.micro for each in found} == {f"train.micro_batch_size={size}" for size in (1, 2, 4)}
    for each in found[:6]:
        compose([*typed, "launcher.processes_per_node=2", *each.overrides])


def test_settings_that_do_not_go_together_are_not_offered(rows: list[str]) -> None:
    typed = [*rows, "model=gpt2", "launcher.processes_per_node=2", "train.compile=true"]
    strategies = {each.strategy for each in found_in(typed, 80.0)}
    assert strategies == {"ddp", "fsdp", "hsdp", "zero1", "zero2"}, "zero3 cannot be compiled"
