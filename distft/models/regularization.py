"""Regularization inside the model: dropout by the architecture's own settings, and noise on embeddings (NEFTune).

NEFTune (Jain et al. 2023, arXiv 2310.05914): in training, uniform noise is added to the embeddings of the input, of
magnitude alpha / sqrt(L H) for L tokens of H numbers. L is the length of a document, also where several are packed in
one row: so the noise of a document does not depend on what it is packed with.

The noise is drawn from torch's generator, which every micro-batch seeds by (seed, step, micro-batch, rank), as for
dropout. In evaluation there is none.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from distft.config.model_folder import DROPOUT

Dropout = float | Mapping[str, float]


def dropout_settings(config: PreTrainedConfig) -> dict[str, float]:
    """Returns the architecture's dropout settings by name; those that are not set are 0."""
    values = config.get_text_config().to_dict()
    return {
        name: float(value or 0.0)
        for name, value in values.items()
        if DROPOUT.search(name) and (value is None or isinstance(value, int | float)) and not isinstance(value, bool)
    }


def set_dropout(config: PreTrainedConfig, wanted: Dropout | None) -> None:
    """Sets dropout in a config: one value for every setting that it has, or values by their names.

    wanted: None leaves the config as it is. ValueError for a setting that the architecture does not have.
    """
    if wanted is None:
        return
    names = dropout_settings(config)
    named = wanted if isinstance(wanted, Mapping) else dict.fromkeys(names, wanted)
    unknown = [name for name in named if name not in names]
    if unknown or not names:
        allowed = f"Allowed: {', '.join(names)}" if names else "It has none"
        raise ValueError(f"model.dropout: {config.model_type} has no {unknown[0] if unknown else 'dropout'}. {allowed}")
    for name, value in named.items():
        setattr(config.get_text_config(), name, float(value))


def effective_dropout(model: nn.Module) -> dict[str, int]:
    """Returns how many modules of the live model drop each share: {"0.1": 24}; zero is left out.

    Most are nn.Dropout; attention keeps its share as a number, which it passes to the kernel.
    """
    found: Counter[str] = Counter()
    for module in model.modules():
        shares = [module.p] if isinstance(module, nn.Dropout) else []
        shares += [value for name, value in vars(module).items() if DROPOUT.search(name) and isinstance(value, float)]
        found.update(str(share) for share in shares if share)
    return dict(sorted(found.items()))


def check_dropout(model: nn.Module, wanted: Dropout | None) -> None:
    """Raises RuntimeError where a wanted share of dropout is in no module of the live model."""
    shares = wanted.values() if isinstance(wanted, Mapping) else [wanted] if wanted else []
    live = effective_dropout(model)
    for share in shares:
        if share and str(float(share)) not in live:
            raise RuntimeError(f"model.dropout={share}: not in force in {type(model).__name__}: {live or 'none'}")


def add_noise(model: PreTrainedModel, alpha: float) -> None:
    """Adds NEFTune's noise to the embeddings of every training forward of `model`."""
    starts: list[torch.Tensor] = []  # of the documents of this forward, [D + 1]

    def remember(module: nn.Module, _: Any, given: Mapping[str, Any]) -> None:
        starts[:] = [given["cu_seq_lens_q"]] if module.training else []

    def noisy(module: nn.Module, _: Any, embedded: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return embedded
        scale = alpha * noise_scale(starts[0], embedded.shape[1], embedded.shape[2])
        noise = torch.empty_like(embedded).uniform_(-1, 1)  # [1, S, H]
        return embedded + noise * scale[None, :, None].to(embedded.dtype)

    embeddings: Any = model.get_input_embeddings()
    model.base_model.register_forward_pre_hook(remember, with_kwargs=True)
    embeddings.register_forward_hook(noisy)
    embeddings.neftune_alpha = alpha


def noise_scale(starts: torch.Tensor, num_tokens: int, hidden_size: int) -> torch.Tensor:
    """Returns 1 / sqrt(L H) of each token's document, fp32 [S], without a wait for the device.

    starts: of the documents, and S, int32 [D + 1].
    """
    tokens = torch.arange(num_tokens, device=starts.device, dtype=starts.dtype)
    document = torch.searchsorted(starts[1:], tokens, right=True)  # [S]
    return (starts.diff()[document.clamp(max=len(starts) - 2)] * hidden_size).float().rsqrt()


def effective_noise(model: Any) -> float | None:
    """Returns the alpha of NEFTune's noise in the live model; None without it."""
    return getattr(model.get_input_embeddings(), "neftune_alpha", None)
