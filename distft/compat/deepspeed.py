"""DeepSpeed's private parts: an import without compilers, one class for ZeRO-1 and -2, and its own bookkeeping."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from distft.compat.reach import Reach

_SEEN = "DeepSpeed 0.19.8"
_ENGINE = "deepspeed.runtime.engine.DeepSpeedEngine"
_STEP = ("averaged_gradients", "norm_for_param_grads", "clip_grad")  # what strategies.zero reads and sets in a step
_DTYPES = ("communication_data_type", "gradient_accumulation_dtype")  # what it reports as effective
_ZERO_12 = "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer"
_ZERO_3 = "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3"
REACHES = (
    Reach(f"{_ENGINE}._do_optimizer_sanity_check", _SEEN, "chooses the class of ZeRO-1", takes=("basic_optimizer",)),
    Reach(f"{_ENGINE}.set_gradient_accumulation_boundary", _SEEN, "the last micro-batch", takes=("is_boundary",)),
    Reach(f"{_ZERO_12}.scaled_global_norm", _SEEN, "answered with the known norm: no second wait"),
    Reach(f"{_ZERO_12}.update_offload_overflow_tracker", _SEEN, "answered with nothing: no wait for each parameter"),
    Reach(f"{_ZERO_12}.update_lp_params", _SEEN, "the weights of the compute dtype, from loaded fp32 ones"),
    Reach(f"{_ZERO_3}._get_norm_groups", _SEEN, "answered with the known norm"),
    Reach(f"{_ZERO_3}._constant_buffered_norm2", _SEEN, "answered in pieces: its own takes 2 GB", takes=("input",)),
    Reach(f"{_ZERO_3}.get_param_id", _SEEN, "where a parameter lies in the flat partition", takes=("param",)),
    Reach(_ENGINE, _SEEN, "its _config: the settings in effect", holds=("_config",)),
    Reach(_ZERO_12, _SEEN, "a step without its own clipping", holds=(*_STEP, "check_grad_overflow", *_DTYPES)),
    Reach(
        _ZERO_3,
        _SEEN,
        "the same, and where its partitions lie",
        holds=(*_STEP, "grad_position", "fp32_partitioned_groups_flat", "persistent_parameters", *_DTYPES),
    ),
    Reach("deepspeed.zero.Init", _SEEN, "partitions one parameter", takes=("module", "mem_efficient_linear", "dtype")),
    Reach(
        "deepspeed.runtime.zero.partition_parameters.Init",
        _SEEN,
        "what it leaves on a parameter",
        holds=("ds_tensor", "ds_numel", "ds_shape", "partition", "all_gather"),
    ),
    Reach(
        "deepspeed.utils.mixed_precision_linkage.link_hp_params",
        _SEEN,
        "leaves a parameter's place in the flat partition on it",
        holds=("_hp_mapping",),
    ),
    Reach(
        "deepspeed.utils.tensor_fragment.tensor_fragment",
        _SEEN,
        "that place",
        takes=("lp_fragment_address", "hp_fragment_address", "param_group_index"),
    ),
    Reach("torch.Tensor._base", "torch 2.11 to 2.13", "the weight that a saved tensor is a view of"),
    Reach("deepspeed.ops._probe_compatible_ops", _SEEN, "what __compatible_ops__ asks, with a compiler"),
)


def import_without_compilers(device_type: str) -> Any:
    """Imports and returns deepspeed for this kind of device, without builds that a run here has no use for.

    Seen on CPU: 0.1 s of a core and 45 MiB instead of 1.3 s and 90 MiB from here to a live engine, in every process.
    """
    on_cpu = device_type == "cpu"
    if on_cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"  # read once, while deepspeed is imported
    import deepspeed
    from deepspeed import ops

    if on_cpu:
        # Empty: nothing is tried out with a C++ compiler, and collectives in shared memory are not built, which takes
        # 29-180 s and may leave a lock behind.
        ops.__compatible_ops__ = {}  # pyright: ignore[reportAttributeAccessIssue]
    with _nothing_compiled(), suppress(ImportError):  # to ask whether an optimizer is Muon loads it, compiled
        from deepspeed.runtime.zero.muon import muon_optimizer  # noqa: F401
    return deepspeed


@contextmanager
def one_class_for_stages_1_and_2(engine: Any) -> Iterator[None]:
    """Keeps DeepSpeed from giving stage 1 in bf16, with sums in fp32, to a class of its own, for as long as it lasts.

    That one sums whole gradients on all processes, twice the bytes, and makes the host wait. A DeepSpeed that has no
    such method any more is left alone.
    """
    name = "_do_optimizer_sanity_check"
    choose = getattr(engine, name, None)
    setattr(engine, name, lambda *_: "zero_optimization")
    try:
        yield
    finally:
        setattr(engine, name, choose)


@contextmanager
def _nothing_compiled() -> Iterator[None]:
    """Makes torch.compile leave functions as they are, for as long as it lasts."""
    name = "TORCHDYNAMO_DISABLE"  # read at each call
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def answer_norms(
    optimizer: Any, stage: int, known: Callable[[], float], norm_of: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Gives a ZeRO optimizer the known norm where it would compute its own, which makes the host wait each time.

    known: the norm of the whole gradient. norm_of: the norm of a part of it; DeepSpeed's own takes 2 GB at stage 3.
    RuntimeError for a DeepSpeed without these methods.
    """
    answers: dict[str, Callable[..., Any]] = {
        "scaled_global_norm": lambda: torch.tensor(known()),
        "update_offload_overflow_tracker": lambda _: None,  # called in the backward pass for each parameter
    }
    if stage == 3:
        answers = {"_get_norm_groups": lambda: [known()], "_constant_buffered_norm2": norm_of}
    for name, answer in answers.items():
        if not hasattr(optimizer, name):
            raise RuntimeError(f"this DeepSpeed has no {name} in {type(optimizer).__name__}")
        setattr(optimizer, name, answer)


def zero_settings(engine: Any) -> Any:
    """Returns the ZeRO settings that a live engine holds."""
    return engine._config.zero_config


def master_fragment(parameter: Any) -> Any:
    """Returns the location of a parameter's fp32 master weights in this rank's flat partition (ZeRO-1 and -2).

    None where this process holds none of them.
    """
    return getattr(parameter, "_hp_mapping", None)


@dataclass(frozen=True)
class _View:
    """A view of a partitioned weight, without its memory."""

    weight: torch.Tensor
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


def views_by_place() -> AbstractContextManager[Any]:
    """Returns a context for the forward of ZeRO-3: of a view of a weight the backward pass keeps its place alone.

    Trap: a linear layer saves the transpose of its weight. That view would keep each gathered weight, and so at the end
    of a forward the whole model. DeepSpeed's own remedy replaces torch.nn.functional.linear in the whole process and
    rounds before it adds a bias.
    """
    return saved_tensors_hooks(_place_in_weight, _view_of_weight)


def _place_in_weight(saved: torch.Tensor) -> torch.Tensor | _View:
    weight = saved._base
    if weight is None or not hasattr(weight, "ds_tensor"):
        return saved
    return _View(weight, tuple(saved.shape), saved.stride(), int(saved.storage_offset()))


def _view_of_weight(kept: torch.Tensor | _View) -> torch.Tensor:
    """Returns the tensor again; a layer's weights are gathered before its backward pass."""
    if isinstance(kept, torch.Tensor):
        return kept
    with torch.no_grad():
        return kept.weight.as_strided(kept.size, kept.stride, kept.offset)
