"""Choice of the attention kernel: resolves `model.attention` to a name of transformers' attention interface.

Every kernel is block-diagonal over the documents of a packed row. distft registers two of its own; flash-attention,
flex and eager are transformers' own: they receive cu_seqlens, or detect documents by position ids that restart.
Trap: transformers fetches flash-attention from the hub where it is not installed, so choose() checks first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_3_available

from distft.compat.transformers import class_for, has_attention_interface, supports_sdpa
from distft.models.attention.sdpa import documents_sdpa
from distft.models.attention.varlen import documents_varlen
from distft.tasks import Task
from distft.tasks.causal_lm import TASK as CAUSAL_LM

SDPA, VARLEN = "distft_sdpa", "distft_varlen"
_OWN = {"sdpa": SDPA, "varlen": VARLEN}
_SEPARABLE = ("full_attention", "sliding_attention")
_DROPOUT = (
    "attention_dropout",
    "attn_pdrop",
    "attention_probs_dropout_prob",
)  # names of attention dropout in transformers configs

# SDPA is called once per document, layer and direction. On Hopper and datacenter Blackwell torch 2.13 prefers cuDNN:
# on an H100 1.7 to 2.3 times as fast as varlen (FlashAttention 2), on other devices slower (transformers pull request
# 48163). But cuDNN builds a plan for each new length: 0.4 s forward and 0.5 s backward on a B200 (FunASR issue 3704).
# So it pays for a few long documents of few distinct lengths. Not measured on a device yet.
CUDNN_FIRST = ((9, 0), (10, 0))  # compute capabilities
LONG_TOKENS = 2048  # documents this long hide the launch overhead: 0.5 GFLOP per head and layer at head size 128
FEW_DOCUMENTS = 4  # per micro-batch; each is one call
FEW_LENGTHS = 16  # distinct, of all rows; each is one plan: at most 16 s in all
VARLEN_CAPABILITY = (8, 0)  # Ampere, the minimum for FlashAttention 2
VARLEN_HEAD = 256  # the largest head size it supports

AttentionInterface.register(SDPA, documents_sdpa)
AttentionInterface.register(VARLEN, documents_varlen)


@dataclass(frozen=True)
class Attention:
    """The requested kernel, the effective one, and why. The field names are keys of effective.json."""

    asked: str
    in_force: str
    why: str


@dataclass(frozen=True)
class Machine:
    """The machine that computes attention. capability: of an NVIDIA device; None: another device, such as ROCm."""

    device: str
    dtype: torch.dtype
    capability: tuple[int, int] | None = None

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype) -> "Machine":
        nvidia = device.type == "cuda" and torch.version.hip is None
        return cls(device.type, dtype, torch.cuda.get_device_capability(device) if nvidia else None)


@dataclass(frozen=True)
class Documents:
    """Statistics of a run's documents. per_micro_batch: the approximate number in a full one."""

    mean_tokens: float
    per_micro_batch: float
    num_lengths: int

    @classmethod
    def of(cls, lengths: np.ndarray, rows: int | None, tokens: int | None) -> "Documents":
        """lengths: tokens of each document. rows, tokens: the limit of a micro-batch, one of them set."""
        mean = float(lengths.mean()) if len(lengths) else 1.0
        return cls(mean, rows or max(1.0, (tokens or 0) / mean), len(np.unique(lengths)))


@dataclass(frozen=True)
class Traits:
    """What of a model decides which kernels can compute its attention."""

    head_size: int
    dropout: bool
    caps_scores: bool
    goes_with_sdpa: bool

    @classmethod
    def of(cls, config: PreTrainedConfig, task: Task = CAUSAL_LM) -> "Traits":
        text = config.get_text_config()
        kind = class_for(config, task.model_class)
        return cls(
            head_size=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            dropout=dropout_of(config) is not None,
            caps_scores=bool(getattr(text, "attn_logit_softcapping", None)),
            goes_with_sdpa=supports_sdpa(kind),
        )

    @property
    def not_sdpa(self) -> str | None:
        """Why neither SDPA nor varlen can compute it; None when both can."""
        if self.caps_scores:
            return "the model caps attention scores"
        return None if self.goes_with_sdpa else "the model's attention is not torch's SDPA"


def dropout_of(config: PreTrainedConfig) -> str | None:
    """Returns the name of the config's attention dropout; None when the model has none."""
    return next((name for name in _DROPOUT if getattr(config.get_text_config(), name, 0)), None)


def effective_attention(
    asked: str, machine: Machine, documents: Documents, traits: Traits, *, compiled: bool
) -> Attention:
    """Returns the kernel for `model.attention` on this machine: a named one, or for `auto` the fastest supported one.

    Raises ValueError where `auto` has no kernel that train.compile=true supports.
    """
    if asked != "auto":
        return Attention(asked, asked, "requested by name")
    if traits.not_sdpa:
        return Attention(asked, "eager", traits.not_sdpa)
    no_varlen = _not_varlen(machine, traits)
    if no_varlen and compiled and machine.device == "cuda":
        raise ValueError(
            f"model.attention=auto with train.compile=true: {no_varlen}, and no other kernel can be compiled on CUDA. "
            "Try: train.compile=false"
        )
    if no_varlen:
        return Attention(asked, "sdpa", no_varlen)
    if compiled:
        return Attention(asked, "varlen", "one operation of a compiled graph")
    about = f"{documents.per_micro_batch:.1f} documents per micro-batch, of {documents.mean_tokens:.0f} tokens"
    few_and_long = documents.per_micro_batch <= FEW_DOCUMENTS and documents.mean_tokens >= LONG_TOKENS
    if few_and_long and documents.num_lengths <= FEW_LENGTHS and machine.capability in CUDNN_FIRST:
        return Attention(asked, "sdpa", f"{about} and {documents.num_lengths} lengths: cuDNN's kernel for each")
    return Attention(asked, "varlen", f"{about} and {documents.num_lengths} lengths: one call for all")


def _not_varlen(machine: Machine, traits: Traits) -> str | None:
    """Returns the reason why torch's varlen kernel cannot run; None when it can."""
    if machine.device == "cpu":
        return "the only kernel on a CPU"
    if machine.capability is None:
        return f"varlen needs an NVIDIA device, and this one is {machine.device}"
    if machine.capability < VARLEN_CAPABILITY:
        return f"varlen needs compute capability 8.0, and this device has {'.'.join(map(str, machine.capability))}"
    if machine.dtype not in (torch.bfloat16, torch.float16):
        return f"varlen computes in bf16 and fp16, not in {str(machine.dtype).removeprefix('torch.')}"
    if traits.dropout:
        return "varlen has no dropout, and the model's attention has"
    if traits.head_size > VARLEN_HEAD or traits.head_size % 8:
        return f"varlen takes heads of 8, 16 ... {VARLEN_HEAD}, and the model's have {traits.head_size}"
    return None


def anywhere(config: PreTrainedConfig, task: Task = CAUSAL_LM) -> str:
    """Returns the kernel that can compute this model's attention on every machine."""
    return "eager" if Traits.of(config, task).not_sdpa else "sdpa"


def enabled_sdpa() -> list[str]:
    """Returns the enabled backends of torch's SDPA; torch uses the first that supports a call."""
    on = torch.backends.cuda
    enabled = {
        "cudnn": on.cudnn_sdp_enabled(),
        "flash": on.flash_sdp_enabled(),
        "mem_efficient": on.mem_efficient_sdp_enabled(),
        "math": on.math_sdp_enabled(),
    }
    return [name for name, is_on in enabled.items() if is_on]


def choose(word: str) -> str:
    """Returns transformers' name of the kernel; raises ValueError when it is unavailable: there is no fallback."""
    if word == "flash_attention_3" and not is_flash_attn_3_available():
        raise ValueError(
            f"model.attention={word}: needs CUDA and the package flash-attn-3 (flash_attn_interface). "
            "Try: model.attention=auto"
        )
    if word == "flash_attention_2" and find_spec("flash_attn") is None:
        raise ValueError(f"model.attention={word}: flash-attn is not installed. Try: model.attention=sdpa")
    if word == "varlen" and not torch.cuda.is_available():
        raise ValueError(f"model.attention={word}: torch's kernel is for CUDA. Try: model.attention=sdpa")
    if word == "flex_attention" and not torch.accelerator.is_available():
        # torch 2.13 on a CPU with AVX2 only: nondeterministic logits and NaN
        raise ValueError(f"model.attention={word}: gives wrong results on some CPUs. Try: model.attention=sdpa")
    return _OWN.get(word, word)


def require_borders(model: PreTrainedModel) -> None:
    """Makes a training forward without document lengths raise ValueError: documents would attend to each other."""

    def check(module: torch.nn.Module, _: Any, given: Mapping[str, object]) -> None:
        if module.training and "document_lengths" not in given:
            raise ValueError("the model was called without document_lengths. Try: model(**batch.inputs())")

    model.base_model.register_forward_pre_hook(check, with_kwargs=True)


def check_separable(config: PreTrainedConfig, task: Task = CAUSAL_LM) -> None:
    """Raises ValueError for a model whose layers would mix packed documents, or that has no class for the task."""
    kind = class_for(config, task.model_class)
    if kind is None and task.labels != "none":
        raise ValueError(
            f"{config.model_type} has no {task.model_class} in transformers, as model.task={task.name} needs"
        )
    name = getattr(kind, "__name__", config.model_type)
    if kind is not None and not has_attention_interface(kind):
        raise ValueError(
            f"{name} does not use transformers' attention interface, so packed documents cannot be separated"
        )
    kinds = getattr(config.get_text_config(), "layer_types", None) or ()
    strange = sorted({kind for kind in kinds if kind not in _SEPARABLE})
    if strange:
        raise ValueError(f"{name} has layers of {strange[0]}, which would mix packed documents")
