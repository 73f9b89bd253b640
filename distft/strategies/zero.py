"""ZeRO stages 1 to 3 by DeepSpeed, without its config file: distft's own settings are the only source.

Traps: DeepSpeed's default buckets reserve gigabytes per process for any model; its JSON accepts unknown keys in
silence (so every setting passed on is read back); and ZeRO-3 refuses a model on meta, so parameters are made one
at a time and partitioned at once. Offload, NCCL and bf16 on accelerators have not been run on a GPU yet.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distft.compat.deepspeed import import_without_compilers, one_class_for_stages_1_and_2
from distft.runtime.process_group import World
from distft.runtime.quiet import silence
from distft.strategies.engine import BuildModel, MakeOptimizer
from distft.strategies.objective import Objective
from distft.strategies.zero_engine import ZeroEngine

MIN_BUCKET, MAX_BUCKET = 500_000, 200_000_000  # parameters
LIVE_BUCKETS = 4  # a quarter of the model may be gathered at a time


@dataclass(frozen=True)
class Zero:
    """Shards optimizer state (stage 1), gradients too (2), and parameters too (3) over all processes.

    offload: keeps optimizer state, and at stage 3 the parameters, in host memory.
    bucket_parameters: communicated at once; None: a sixteenth of the model, within bounds.
    persist_parameters: stage 3 keeps parameters up to this size whole on every process.
    """

    stage: int
    offload: bool = False
    bucket_parameters: int | None = None
    persist_parameters: int = 0
    overlap_communication: bool = False

    def setup(
        self, build_model: BuildModel, make_optimizer: MakeOptimizer, world: World, precision: torch.dtype
    ) -> ZeroEngine:
        deepspeed = _import_deepspeed(world)
        objective = build_model()
        size = sum(p.numel() for p in objective.parameters())
        settings = self.settings(size, precision, world)
        if self.stage == 3:
            _materialise(objective, world.device, precision, partition=deepspeed.zero.Init)
        else:
            _materialise(objective, world.device, precision, partition=None)
        dims = [(p, len(getattr(p, "ds_shape", p.shape))) for p in objective.parameters()]
        with one_class_for_stages_1_and_2(deepspeed.DeepSpeedEngine):
            engine, *_ = deepspeed.initialize(model=objective, optimizer=make_optimizer(dims), config=settings)
        live = ZeroEngine(engine, objective, self.stage, world)
        check_in_force(settings, live.effective())
        return live

    def settings(self, size: int, precision: torch.dtype, world: World) -> dict[str, Any]:
        """Returns DeepSpeed's config for a model of `size` parameters; no batch size, rate or largest norm is in it."""
        bucket = self.bucket_parameters or min(max(size // 16, MIN_BUCKET), MAX_BUCKET)
        zero: dict[str, Any] = {
            "stage": self.stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "overlap_comm": self.overlap_communication,
            "contiguous_gradients": True,
            "use_multi_rank_bucket_allreduce": False,  # it would send each gradient to all, who need one part of it
        }
        if self.stage == 3:
            zero |= {
                "stage3_param_persistence_threshold": self.persist_parameters,
                "stage3_prefetch_bucket_size": bucket,
                "stage3_max_live_parameters": LIVE_BUCKETS * bucket,  # the default keeps 1e9 gathered: a whole model
                "stage3_max_reuse_distance": bucket,
            }
        if self.offload:
            on_device = world.device.type != "cpu"
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": on_device}
            if self.stage == 3:
                zero["offload_param"] = {"device": "cpu", "pin_memory": on_device}
        return {
            "train_micro_batch_size_per_gpu": 1,  # only a word in DeepSpeed's own throughput log
            "gradient_accumulation_steps": 1,  # borders are set by hand: see ZeroEngine.backward
            "gradient_clipping": 0.0,  # the default is 1.0; see ZeroEngine.update
            "zero_optimization": zero,
            "bf16": {"enabled": precision == torch.bfloat16, "check_grad_overflow": False},
            "communication_data_type": "fp32",
            "data_types": {"grad_accum_dtype": "fp32"},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 2**62,
            "timers": {"throughput": {"enabled": False}},  # else the host waits for the device twice a micro-batch
        }


def _import_deepspeed(world: World) -> Any:
    deepspeed = import_without_compilers(world.device.type)
    silence()
    deepspeed.init_distributed(dist_init_required=False, verbose=False)
    return deepspeed


def _materialise(
    objective: Objective, device: torch.device, dtype: torch.dtype, partition: Callable[..., Any] | None
) -> None:
    """Gives every parameter on meta memory on `device`; tied ones stay one parameter.

    With `partition` each is whole only in one scratch buffer that all use in turn, and keeps its own part: memory
    taken and freed for each in turn would leave holes as large as the model.
    """
    sizes = [parameter.numel() for parameter in objective.parameters()]
    scratch = torch.zeros(max(sizes) if partition else 0, dtype=dtype, device=device)
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in objective.modules():
        for name, old in module.named_parameters(recurse=False):
            if old not in made:
                data = (
                    scratch[: old.numel()].view(old.shape)
                    if partition
                    else torch.zeros(old.shape, dtype=dtype, device=device)
                )
                made[old] = nn.Parameter(data, requires_grad=old.requires_grad)
                if partition:
                    holder = nn.Module()
                    holder.weight = made[old]
                    partition(module=holder, mem_efficient_linear=False, dtype=dtype)
            setattr(module, name, made[old])
    for buffer in objective.buffers():
        buffer.data = buffer.data.to(device)


def check_in_force(asked: dict[str, Any], effective: dict[str, object]) -> None:
    """Raises when the live engine does not hold what was asked for."""
    zero = asked["zero_optimization"]
    expected = {
        "stage": zero["stage"],
        "reduce_bucket_size": zero["reduce_bucket_size"],
        "overlap_comm": zero["overlap_comm"],
        "compute_dtype": str(torch.bfloat16 if asked["bf16"]["enabled"] else torch.float32),
        "reduce_dtype": str(torch.float32),
        "accumulate_dtype": str(torch.float32),
        "offload": "offload_optimizer" in zero,
    }
    wrong = {key: (value, effective[key]) for key, value in expected.items() if effective[key] != value}
    if wrong:
        text = "; ".join(f"{key}: asked {value}, in force {live}" for key, (value, live) in wrong.items())
        raise RuntimeError(f"DeepSpeed did not take over its settings: {text}")
