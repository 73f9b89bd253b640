"""A live DeepSpeed engine behind distft's contract, and its flat partitions as pieces.

Stages 1 and 2 keep all parameters of a group in one flat tensor and give each process a stretch of it; stage 3 cuts
every parameter into equal flat parts and pads the last. Both are flat ranges of single parameters (Piece).
"""

from collections.abc import Callable, Iterator
from math import isfinite, nan
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import ProcessGroup

from distft.compat.deepspeed import master_fragment, zero_settings
from distft.data.batches import Batch
from distft.runtime.process_group import World
from distft.runtime.regions import Flat
from distft.strategies.engine import Piece, bit_sum, clip_coefficient, sum_of_squares, whole_pieces
from distft.strategies.objective import Loss, Objective, Sums


class ZeroEngine:
    """A model under ZeRO: fp32 master weights and moments in flat partitions, computed in the engine's dtype."""

    def __init__(self, deepspeed_engine: Any, objective: Objective, stage: int, world: World) -> None:
        self.deepspeed = deepspeed_engine
        self.objective = objective
        self.stage = stage
        self.world = world
        self.optimizer: torch.optim.Optimizer = deepspeed_engine.optimizer.optimizer
        self._known_norm = nan
        self._answer_for_deepspeed()

    def _answer_for_deepspeed(self) -> None:
        """Gives DeepSpeed the norm that is known where it would take its own, and each time make the host wait."""
        answers: dict[str, Callable[..., Any]] = {
            "scaled_global_norm": lambda: torch.tensor(self._known_norm),
            "update_offload_overflow_tracker": lambda _: None,  # asked in the backward pass, for each parameter
        }
        if self.stage == 3:
            answers = {
                "_get_norm_groups": lambda: [self._known_norm],
                "_constant_buffered_norm2": lambda part: sum_of_squares([part], part.device).sqrt(),  # its own: 2 GB
            }
        for name, answer in answers.items():
            if not hasattr(self.deepspeed.optimizer, name):
                raise RuntimeError(f"this DeepSpeed has no {name} in {type(self.deepspeed.optimizer).__name__}")
            setattr(self.deepspeed.optimizer, name, answer)

    @property
    def _offloads(self) -> bool:
        return zero_settings(self.deepspeed).offload_optimizer is not None

    def forward(self, batch: Batch, loss: Loss | None = None) -> tuple[torch.Tensor, Sums]:
        return self.deepspeed(batch, loss)

    def backward(self, value: torch.Tensor, scale: float, last: bool) -> None:
        self.deepspeed.set_gradient_accumulation_boundary(last)
        self.deepspeed.backward(value * scale, scale_wrt_gas=False)
        if not last:
            self.deepspeed.step()  # no update between borders: DeepSpeed's own count of micro-batches

    def squared_norm(self) -> torch.Tensor:
        """With offload DeepSpeed takes each part's norm on the device, before the part goes to the host."""
        zero = self.deepspeed.optimizer
        if self._offloads:
            norms = list(zero.norm_for_param_grads.values())  # 0-d; fp64, but on devices without it
            return torch.stack(norms).double().square().sum() if norms else sum_of_squares([], self.world.device)
        return sum_of_squares((part for group in zero.averaged_gradients.values() for part in group), self.world.device)

    def update(self, norm: float, max_norm: float | None) -> None:
        """Leaves clipping to DeepSpeed, which scales the gradient as it hands it to the optimizer."""
        zero = self.deepspeed.optimizer
        self._known_norm = norm
        zero.clip_grad = max_norm if clip_coefficient(norm, max_norm) < 1 else 0.0
        zero.check_grad_overflow = not isfinite(norm)  # stages 1 and 2 in bf16 would take any step else
        self.deepspeed.step()
        if not isfinite(norm):
            zero.averaged_gradients.clear()  # stages 1 and 2 in bf16 with offload would add the next ones to these

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
        if self.stage == 3:  # no two processes keep the same
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
