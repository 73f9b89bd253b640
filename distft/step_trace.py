"""`python -m distft.step_trace OVERRIDES`: prints the memory of a step as JSON, traced on tensors without data.

The run's own model and loss go forward and backward once, over the prepared rows of its largest micro-batch where there
are some, on fake tensors: every operation runs on shapes alone, so a model of any size is traced on any machine. What
the strategy adds (state, gathered weights) is counted by the plan.
Trap: the kernels are a CPU's, since a build of torch without CUDA has no others. Attention saves the same there.
"""

from collections.abc import Iterator
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn

from distft.compat.fake_tensors import Live, fake_tensors
from distft.config import Config, ConfigError, compose
from distft.data.batches import Batch, make_batch
from distft.data.shards import Row, Rows
from distft.plan import make_plan
from distft.plan.step import compute_bytes, longest_row, on_accelerators
from distft.run import Plan, json_text
from distft.strategies.engine import Objective
from distft.tasks import load_task
from distft.worker import make_objective


class Traced(TypedDict):
    """Bytes on one process."""

    tokens: int  # of the micro-batch
    saved: int  # by the forward, for the backward pass
    activations: int  # at the peak of the backward pass, without weights and their gradients
    loss: int  # that the loss adds to what is saved, without the gradient of the head's weight


def trace(objective: Objective, batch: Batch, dtype: torch.dtype) -> Traced:
    """Returns the memory of a forward and backward on fake tensors.

    objective: on meta; its parameters are replaced by fake ones. dtype: of computing.
    """
    with fake_tensors():
        materialise(objective, dtype)
        live = Live([*objective.parameters(), *objective.buffers()], head_bytes(objective))
        objective.train()

        def drop(parameter: torch.Tensor) -> None:
            if parameter.grad is not None:  # a strategy reduces it, into shards that the plan counts
                live.forget(parameter.grad)
                parameter.grad = None

        for parameter in objective.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(drop)
        saved = list[int]()

        def at_loss(*_: Any) -> None:
            saved.append(live.now)
            live.restart()

        base: Any = objective.model
        base.base_model.register_forward_hook(at_loss)
        with live:
            value, _ = objective(batch)
            of_loss = live.peak - saved[0]
            live.restart()
            (value * 1.0).backward()
    return Traced(tokens=batch.input_ids.numel(), saved=saved[0], activations=live.peak, loss=of_loss)


def head_bytes(objective: Objective) -> tuple[int, ...]:
    """Returns the bytes of a gradient of the head's weight, in bf16 and fp32, which the plan counts; nothing for a
    frozen one."""
    model: Any = objective.model
    head = model.get_output_embeddings()
    if head is None or not head.weight.requires_grad:
        return ()
    return 2 * head.weight.numel(), 4 * head.weight.numel()


def materialise(objective: nn.Module, dtype: torch.dtype) -> None:
    """Replaces every parameter by a fake one in `dtype`; tied ones stay one."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in objective.modules():
        for name, old in list(module.named_parameters(recurse=False)):
            if old not in made:
                made[old] = nn.Parameter(torch.empty(old.shape, dtype=dtype), requires_grad=old.requires_grad)
            setattr(module, name, made[old])


def largest(config: Config, plan: Plan) -> Batch:
    """Returns a micro-batch of the planned size: prepared rows, the longest first, else one document of each row."""
    if plan.data_dir is None:
        if load_task(config.model.task).labels != "none" or load_task(config.model.task).unit == "pair":
            raise ConfigError([f"exact=true: model.task={config.model.task} needs prepared rows. Try: distft prepare"])
        length = longest_row(config)
        tokens = plan.micro_batch_tokens or (plan.micro_batch_size or 1) * length
        return make_batch([Row(np.zeros(length, np.int32), np.ones(length, bool))] * max(1, tokens // length))
    rows = Rows(plan.rows_dir, "train")
    return make_batch([rows[int(i)] for i in chosen(rows.lengths, plan)])


def chosen(lengths: np.ndarray, plan: Plan) -> Iterator[int]:
    """Yields the longest rows that one micro-batch holds."""
    room = plan.micro_batch_tokens
    for count, row in enumerate(np.argsort(-lengths, kind="stable")):
        if room is None and count == plan.micro_batch_size:
            return
        if room is not None:
            if lengths[row] > room:
                continue
            room -= int(lengths[row])
        yield row


def main(arguments: list[str]) -> int:
    """Returns 0 with one JSON object on standard output."""
    config = compose(arguments)
    plan = make_plan(config)
    if plan.model_dir is None and not config.model.tiny:  # not fetched: by the architecture that the config holds
        config = config.changed({"model.tiny_architecture": {}})
    device = torch.device("cpu")
    dtype = torch.bfloat16 if compute_bytes(config, on_accelerators(config)) == 2 else torch.float32
    objective = make_objective(config, plan, device)
    print(json_text(trace(objective, largest(config, plan), dtype)))
    return 0


if __name__ == "__main__":
    from distft.config import command

    command(main, help="usage: python -m distft.step_trace [OVERRIDES]: the memory of a step, traced without data")
