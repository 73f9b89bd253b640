"""A plain DeepSpeed program, without distft: `python -m tests.support.universal_program OUT FOLDER BASE STAGES`.

Loads the universal checkpoint in FOLDER into a model like BASE at every stage, and writes the loaded state to
safetensors files.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"
import deepspeed
import torch
from deepspeed import ops
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM


def load(folder: str, base: str, stage: int) -> Any:
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base), dtype=torch.float32)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "checkpoint": {"load_universal": True},
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(groups, lr=0.5), config=settings)
    path, _ = engine.load_checkpoint(folder)
    assert path is not None
    return engine


def held(engine: Any) -> dict[str, torch.Tensor]:
    found = {}
    for name, parameter in engine.module.named_parameters():
        found[f"parameter|{name}"] = safe_get_full_fp32_param(parameter).clone()
        for slot in ("exp_avg", "exp_avg_sq"):
            found[f"{slot}|{name}"] = safe_get_full_optimizer_state(parameter, slot).clone()
    return found


def main() -> None:
    out, folder, base, stages = sys.argv[1:]
    ops.__compatible_ops__["deepspeed_shm_comm"] = False  # a C++ build of half a minute
    deepspeed.init_distributed("gloo")
    answer = {}
    for stage in map(int, stages.split(",")):
        engine = load(folder, base, stage)
        tensors = held(engine)
        ids = torch.arange(12)[None]
        engine.eval()
        tensors["logits"] = engine(input_ids=ids).logits.detach().clone()
        states = engine.optimizer.optimizer.state.values()
        answer[stage] = {
            "steps": [float(state["step"]) for state in states],
            "global_steps": engine.global_steps,
            "lr": [group["lr"] for group in engine.optimizer.optimizer.param_groups],
        }
        if int(os.environ["RANK"]) == 0:
            save_file(tensors, Path(folder) / f"stage-{stage}.safetensors")
    if int(os.environ["RANK"]) == 0:
        Path(out).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
