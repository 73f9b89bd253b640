"""ZeRO stages 1 to 3 by DeepSpeed, without its config file: distft's settings are the only source.

Stages 1 and 2 keep all parameters of a group in one flat tensor and give each process a range of it; stage 3 cuts
every parameter into equal flat parts and pads the last. Both are flat ranges of single parameters (Piece).

Traps: DeepSpeed's default buckets reserve gigabytes per process for any model; its JSON silently accepts unknown keys,
so every setting is read back; and ZeRO-3 refuses a model on meta, so parameters are allocated one at a time and
partitioned at once. Offload, NCCL and bf16 on accelerators have not been run on a GPU yet.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import ProcessGroup

from distft.compat.deepspeed import (
    answer_norms,
    import_without_compilers,
    master_fragment,
    one_class_for_stages_1_and_2,
    views_by_place,
    zero_settings,
)
from distft.data.batches import Batch
from distft.runtime.logs import silence
from distft.runtime.process_group import World
from distft.strategies.engine import (
    BuildModel,
    Loss,
    MakeOptimizer,
    Objective,
    Piece,
    Sums,
    bit_sum,
    clip_coefficient,
    sum_of_squares,
    whole_pieces,
)
from distft.tensors.regions import Flat


class ZeroEngine:
    """A model under ZeRO: fp32 master weights and moments in flat partitions, computed in the engine's dtype."""

    def __init__(self, deepspeed_engine: Any, objective: Objective, stage: int, world: World) -> None:
        self.deepspeed = deepspeed_engine
        self.objective = objective
        self.stage = stage
        self.world = world
        self.optimizer: torch.optim.Optimizer = deepspeed_engine.optimizer.optimizer
        self._known_norm = nan
        answer_norms(
            deepspeed_engine.optimizer,
            stage,
            known=lambda: self._known_norm,
            norm_of=lambda part: sum_of_squares([part], part.device).sqrt(),
        )

    @property
    def _offloads(self) -> bool:
        return zero_settings(self.deepspeed).offload_optimizer is not None

    def forward(self, batch: Batch, loss: Loss | None = None) -> tuple[torch.Tensor, Sums]:
        if self.stage < 3:
            return self.deepspeed(batch, loss)
        with views_by_place():
            return self.deepspeed(batch, loss)

    def backward(self, value: torch.Tensor, scale: float, last: bool) -> None:
        self.deepspeed.set_gradient_accumulation_boundary(last)
        self.deepspeed.backward(value * scale, scale_wrt_gas=False)
        if not last:
            self.deepspeed.step()  # no update: only advances DeepSpeed's count of micro-batches

    def squared_norm(self) -> torch.Tensor:
        """Returns the squared norm; with offload from norms that DeepSpeed computed on the device before the copy."""
        zero = self.deepspeed.optimizer
        if self._offloads:
            norms = list(zero.norm_for_param_grads.values())  # 0-d; fp64 where the device has it
            return torch.stack(norms).double().square().sum() if norms else sum_of_squares([], self.world.device)
        return sum_of_squares((part for group in zero.averaged_gradients.values() for part in group), self.world.device)

    def update(self, norm: float, max_norm: float | None) -> None:
        """Updates the weights; DeepSpeed clips, since it scales the gradient on its way to the optimizer."""
        zero = self.deepspeed.optimizer
        self._known_norm = norm
        zero.clip_grad = max_norm if clip_coefficient(norm, max_norm) < 1 else 0.0
        zero.check_grad_overflow = not isfinite(norm)  # else stages 1 and 2 in bf16 would update with any gradient
        self.deepspeed.step()
        if not isfinite(norm):
            zero.averaged_gradients.clear()  # else stages 1 and 2 in bf16 with offload add the next ones

    def train(self, mode: bool) -> None:
        self.deepspeed.train(mode)

    def pieces(self) -> Iterator[Piece]:
        for name, parameter in self.objective.own_parameters():
            yield from self._cut(name, parameter) if self.stage == 3 else self._stretch(name, parameter)

    def _stretch(self, name: str, parameter: nn.Parameter) -> Iterator[Piece]:
        shape = tuple(parameter.shape)
        if not parameter.requires_grad:
            yield from whole_pieces(name, parameter, self.world.rank, self.world.size)
            return
        mapping = master_fragment(parameter)
        if mapping is not None:
            owner = self.optimizer.param_groups[mapping.param_group_index]["params"][0]
            within, flat = mapping.lp_fragment_address, mapping.hp_fragment_address
            yield Piece(name, shape, Flat(within.start, within.numel), owner, flat.start)

    def _cut(self, name: str, parameter: Any) -> Iterator[Piece]:
        size = parameter.ds_tensor.ds_numel
        start = size * self.world.rank
        count = min(size, max(0, parameter.ds_numel - start))
        owner, offset = parameter.ds_tensor, 0
        if parameter.requires_grad:
            zero = self.deepspeed.optimizer
            group, offset, _ = zero.grad_position[zero.get_param_id(parameter)]
            owner = zero.fp32_partitioned_groups_flat[group]
        if count:
            shape = tuple(parameter.ds_shape)
            yield Piece(name, shape, Flat(start, count), owner, offset, frozen=not parameter.requires_grad)

    @torch.no_grad()
    def refresh(self) -> None:
        if self.stage < 3:
            self.deepspeed.optimizer.update_lp_params()
            return
        by_name = dict(self.objective.own_parameters())
        for piece in self.pieces():
            shard: torch.Tensor = by_name[piece.name].ds_tensor  # pyright: ignore[reportAttributeAccessIssue]
            shard[: piece.region.count].copy_(piece.data())
        kept_whole = self.deepspeed.optimizer.persistent_parameters
        if kept_whole:
            kept_whole[0].partition(kept_whole)
            kept_whole[0].all_gather(kept_whole)

    def fingerprint(self) -> tuple[torch.Tensor, ProcessGroup | None]:
        if self.stage == 3:  # no process replicates another
            return torch.zeros((), dtype=torch.int64, device=self.world.device), None
        return bit_sum(self.objective.parameters()), dist.group.WORLD

    def effective(self) -> dict[str, object]:
        settings, zero = zero_settings(self.deepspeed), self.deepspeed.optimizer
        states = [v for s in self.optimizer.state.values() for v in s.values() if torch.is_tensor(v) and v.ndim]
        return {
            "stage": int(settings.stage),
            "offload": self._offloads,
            "reduce_bucket_size": int(settings.reduce_bucket_size),
            "overlap_comm": bool(settings.overlap_comm),
            "compute_dtype": str(next(p.dtype for p in self.objective.parameters())),
            "reduce_dtype": str(
                getattr(zero, "communication_data_type", None) or getattr(zero, "grad_acc_dtype", None)
            ),
            "accumulate_dtype": str(
                getattr(zero, "gradient_accumulation_dtype", None) or getattr(zero, "grad_acc_dtype", None)
            ),
            "weight_dtypes": sorted({str(piece.owner.dtype) for piece in self.pieces() if not piece.frozen}),
            "frozen_dtypes": sorted({str(piece.owner.dtype) for piece in self.pieces() if piece.frozen}),
            "moment_dtypes": sorted({str(v.dtype) for v in states}),
        }


Settings = dict[str, Any]  # DeepSpeed's own config, free-form JSON
MIN_BUCKET, MAX_BUCKET = 500_000, 200_000_000  # parameters
LIVE_BUCKETS = 4  # at most a quarter of the model is gathered at a time


@dataclass(frozen=True)
class Zero:
    """Shards optimizer state (stage 1), also gradients (2), also parameters (3) over all processes.

    offload: keeps optimizer state, and at stage 3 the parameters, in host memory.
    bucket_parameters: size of a communication bucket; None: a sixteenth of the model, within bounds.
    persist_parameters: stage 3 replicates parameters up to this size.
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
        check_effective(settings, live.effective())
        return live

    def settings(self, size: int, precision: torch.dtype, world: World) -> Settings:
        """Returns DeepSpeed's config for a model of `size` parameters, without batch size, rate and clipping."""
        bucket = self.bucket_parameters or min(max(size // 16, MIN_BUCKET), MAX_BUCKET)
        zero: Settings = {
            "stage": self.stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "overlap_comm": self.overlap_communication,
            "contiguous_gradients": True,
            "use_multi_rank_bucket_allreduce": False,  # it sends whole gradients to all processes, which need one part
        }
        if self.stage == 3:
            zero |= {
                "stage3_param_persistence_threshold": self.persist_parameters,
                "stage3_prefetch_bucket_size": bucket,
                "stage3_max_live_parameters": LIVE_BUCKETS * bucket,  # the default of 1e9 keeps a whole model gathered
                "stage3_max_reuse_distance": bucket,
            }
        if self.offload:
            on_device = world.device.type != "cpu"
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": on_device}
            if self.stage == 3:
                zero["offload_param"] = {"device": "cpu", "pin_memory": on_device}
        return {
            "train_micro_batch_size_per_gpu": 1,  # used by DeepSpeed's throughput log only
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
    """Allocates every parameter on meta on `device`; tied weights stay one parameter.

    With `partition` each is whole only in a shared scratch buffer, and then keeps its own part: allocating and freeing
    each in turn would fragment memory by the size of the model.
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


def check_effective(requested: Settings, effective: dict[str, object]) -> None:
    """Raises RuntimeError when the live engine has other settings than requested."""
    zero = requested["zero_optimization"]
    expected = {
        "stage": zero["stage"],
        "reduce_bucket_size": zero["reduce_bucket_size"],
        "overlap_comm": zero["overlap_comm"],
        "compute_dtype": str(torch.bfloat16 if requested["bf16"]["enabled"] else torch.float32),
        "reduce_dtype": str(torch.float32),
        "accumulate_dtype": str(torch.float32),
        "offload": "offload_optimizer" in zero,
    }
    wrong = {key: (value, effective[key]) for key, value in expected.items() if effective[key] != value}
    if wrong:
        text = "; ".join(f"{key}: requested {value}, effective {live}" for key, (value, live) in wrong.items())
        raise RuntimeError(f"DeepSpeed does not use its settings: {text}")
