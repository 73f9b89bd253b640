"""Which attention kernel a model runs with: `model.attention` as transformers' attention interface knows it.

Every kernel keeps the documents of a row apart. distft's own two are registered here; flash-attention, flex and eager
are transformers' own, which are told the documents' borders or see them in the positions that begin again.
"""

from importlib.util import find_spec
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

from distft.compat.transformers import has_attention_interface
from distft.models.attention.sdpa import documents_sdpa
from distft.models.attention.varlen import documents_varlen

SDPA, VARLEN = "distft_sdpa", "distft_varlen"
_OWN = {"sdpa": SDPA, "varlen": VARLEN}
_SEPARABLE = ("full_attention", "sliding_attention")

AttentionInterface.register(SDPA, documents_sdpa)
AttentionInterface.register(VARLEN, documents_varlen)


def choose(word: str) -> str:
    """Returns transformers' name of the kernel; ValueError when it is not here: nothing takes its place."""
    if word == "flash_attention_2" and find_spec("flash_attn") is None:
        raise ValueError(f"model.attention={word}: flash-attn is not installed. Nearest: model.attention=sdpa")
    if word == "varlen" and not torch.cuda.is_available():
        raise ValueError(f"model.attention={word}: torch's kernel is for CUDA. Nearest: model.attention=sdpa")
    if word == "flex_attention" and not torch.accelerator.is_available():
        # torch 2.13 on a CPU with AVX2 alone: from run to run other logits than alone, and NaN
        raise ValueError(f"model.attention={word}: is wrong on some CPUs. Nearest: model.attention=sdpa")
    return _OWN.get(word, word)


def require_borders(model: PreTrainedModel) -> None:
    """Makes a training forward without the documents' borders an error, whatever the kernel: they would be one."""

    def check(module: torch.nn.Module, _: Any, given: dict[str, Any]) -> None:
        if module.training and "document_lengths" not in given:
            raise ValueError(
                "the model was called without the borders of its documents. Nearest: model(**batch.inputs())"
            )

    model.base_model.register_forward_pre_hook(check, with_kwargs=True)


def check_separable(model: PreTrainedModel) -> None:
    """Raises ValueError for a model whose layers carry something from one document of a row into the next."""
    if not has_attention_interface(model):
        raise ValueError(
            f"{type(model).__name__} does not take its attention through transformers' interface, so the rows of a "
            "micro-batch cannot be kept apart"
        )
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()
    strange = sorted({kind for kind in kinds if kind not in _SEPARABLE})
    if strange:
        name = type(model).__name__
        raise ValueError(f"{name} has layers of {strange[0]}, which would mix the rows of a micro-batch")
