"""The plan has the numbers that the programs of a run share."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from distft.config import ConfigError, compose
from distft.plan import make, make_plan
from distft.plan.rows import extent


@pytest.fixture
def right(tmp_path: Path) -> list[str]:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 40)
    return ["model.tiny=true", f"data.train={tmp_path}/rows.jsonl", f"cache_dir={tmp_path}/cache"]


def test_accumulation_follows_from_the_batch(right: list[str]):
    sizes = ["train.global_batch_size=24", "train.micro_batch_size=3", "launcher.processes_per_node=2"]
    plan = make_plan(compose([*right, *sizes]))
    assert (plan.world, plan.micro_batch_size, plan.accumulation) == (2, 3, 4)


def test_micro_batches_are_in_tokens_unless_rows_are_requested(right: list[str]):
    packed = make_plan(compose([*right, "train.global_batch_size=24", "data.max_length=96"]))
    assert (packed.micro_batch_size, packed.micro_batch_tokens) == (None, 96)
    rows = make_plan(compose([*right, "train.global_batch_size=24", "data.packing=false"]))
    assert (rows.micro_batch_size, rows.micro_batch_tokens) == (4, None)


@pytest.mark.slow
def test_a_cluster_run_is_planned_on_any_machine(right: list[str]):
    plan = make_plan(compose([*right, "experiment=four_nodes", "train.micro_batch_size=1"]))
    assert (plan.nodes, plan.processes_per_node, plan.world, plan.accumulation) == (4, 8, 32, 4)
    assert {"ddp", "fsdp", "hsdp", "zero1", "zero2", "zero3", "zero3_offload"} == set(plan.memory)


def test_warm_up_is_checked_against_the_steps_of_prepared_rows(right: list[str], monkeypatch: pytest.MonkeyPatch):
    """Until then they are guessed, and nothing is refused for a guess."""
    config = compose([*right, "schedule.warmup_steps=20"])
    guess = make_plan(config)
    assert guess.estimated and guess.steps < 20
    monkeypatch.setattr(make, "extent", lambda *given: replace(extent(*given), estimated=False))
    with pytest.raises(ConfigError, match=f"leaves none of the run's {guess.steps} steps"):
        make_plan(config)


def test_a_tiny_model_has_no_folder(right: list[str]):
    plan = make_plan(compose(right))
    assert (plan.model_dir, plan.tokenizer_dir, plan.data_dir, plan.estimated) == (None, None, None, True)
    assert 10_000 < plan.parameters < 1_000_000


def test_a_models_folder_is_found_and_counted(right: list[str], tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"w": np.zeros((3, 5), np.float32)}, folder / "model.safetensors")
    plan = make_plan(compose([*right, "model.tiny=false", f"model.path={folder}"]))
    assert (plan.model_dir, plan.tokenizer_dir, plan.parameters) == (str(folder), str(folder), 15)


@pytest.mark.slow
def test_an_unfetched_model_is_counted_by_its_architecture(right: list[str]):
    plan = make_plan(compose([*right, "model.tiny=false", "model=llama3_8b"]))
    assert (plan.model_dir, plan.parameters) == (None, 8_030_261_248)


def test_an_optimizer_with_unknown_state_has_no_memory_table(right: list[str], tmp_path: Path, monkeypatch):
    (tmp_path / "mylab_optimizers.py").write_text("def make(params, lr=1.0): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = ["optimizer._target_=mylab_optimizers.make", "trust=[mylab_optimizers.]"]
    gone = [f"~optimizer.{name}" for name in ("betas", "eps", "weight_decay", "fused")]
    assert make_plan(compose([*right, *own, *gone])).memory == {}


@pytest.mark.slow
def test_adapters_alone_have_gradients_and_state(right: list[str]):
    plan = make_plan(compose([*right, "model=llama3_8b", "tuning=lora", "tuning.rank=8", "model.tiny=false"]))
    assert plan.adapters == 20_971_520
    whole, adapters = plan.memory["ddp"], 4 * 20_971_520
    assert whole["parameters"] == 4 * plan.parameters + adapters  # frozen as they are computed with, here in fp32
    assert (whole["gradients"], whole["optimizer"]) == (adapters, 2 * adapters)


@pytest.mark.slow
def test_a_base_in_4_bits_is_held_whole_by_each_process(right: list[str]):
    """Llama 3 8B: 32 layers of 218,103,808 weights in 4 bits; embedding, head and norms in the compute dtype."""
    cluster = ["launcher=slurm", "launcher.processes_per_node=4", "train.precision=bf16"]
    plan = make_plan(compose([*right, *cluster, "model=llama3_8b", "tuning=qlora", "model.tiny=false"]))
    quantized, adapters = 32 * 218_103_808, 41_943_040
    in_4_bits = quantized / 2 + quantized / 64 + 4 * quantized / (64 * 256)
    rest = plan.parameters - quantized
    assert plan.parameters == 8_030_261_248 and plan.adapters == adapters
    assert plan.memory["ddp"]["parameters"] == in_4_bits + 2 * rest + 4 * adapters
    assert plan.memory["fsdp"]["parameters"] == in_4_bits + (2 * rest + 4 * adapters) / 4
    assert plan.memory["zero3"]["parameters"] == in_4_bits + (2 * (rest + adapters) + 4 * adapters) / 4
    lora = make_plan(compose([*right, *cluster, "model=llama3_8b", "tuning=lora", "model.tiny=false"]))
    assert plan.memory["ddp"]["peak"] < lora.memory["ddp"]["peak"] - 1.4 * quantized


@pytest.mark.slow
def test_a_model_that_reads_its_weights_is_not_held_in_4_bits(right: list[str]):
    with pytest.raises(ConfigError, match="tuning=qlora: gemma3n_text clamps .* Try: tuning=lora"):
        make_plan(compose([*right, "tuning=qlora", "model.tiny_architecture.model_type=gemma3n_text"]))


def test_an_adapter_for_a_missing_layer_is_a_config_error(right: list[str]):
    with pytest.raises(ConfigError, match=r"q_prj is not a linear layer of this model. Try: q_proj"):
        make_plan(compose([*right, "tuning=lora", "tuning.target_modules=[q_prj]"]))


def test_a_refusal_of_the_data_is_a_config_error(right: list[str], tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="data.train"):
        make_plan(compose([*right, f"data.train={tmp_path}/empty"]))
