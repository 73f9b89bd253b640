"""The weights of a trained model, one whole tensor at a time: trained, frozen, or with an adapter added in."""

from math import prod
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from distft.checkpoint.read import Checkpoint
from distft.models.adapters import A, B, is_adapter
from distft.models.safetensors_dir import names_in_model
from distft.models.stored import read_header, tensors_of
from distft.models.weight_files import weight_files
from distft.models.weights import WeightSource


class BaseFolder:
    """The parameters of a model in a folder of safetensors files."""

    def __init__(self, folder: Path, model: PreTrainedModel) -> None:
        self.folder = folder
        headers = {folder / name: read_header(folder / name) for name in weight_files(folder)}
        names = names_in_model(model, [name for header in headers.values() for name in header["tensors"]])
        for header in headers.values():
            header["tensors"] = {name: entry for name, entry in header["tensors"].items() if name in names}
        self.tensors = {
            names[name]: stored for file, header in headers.items() for name, stored in tensors_of(file, header).items()
        }

    def read(self, name: str, shape: tuple[int, ...], start: int, count: int) -> torch.Tensor:
        """Returns elements start..start+count of tensor `name`, row-major, as fp32 [count]."""
        stored = self.tensors.get(name)
        if stored is None or stored.shape != shape:
            raise RuntimeError(f"{self.folder} has no tensor {name} of shape {list(shape)}")
        return stored.read(start, count)


class TrainedWeights:
    """The weights of a run: what it trained from a checkpoint, what it froze from the base model."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: PreTrainedModel,
        base: WeightSource,
        scale: float = 0.0,
        computed_in: torch.dtype = torch.float32,
    ) -> None:
        """model: the base model's skeleton. scale: of the adapters. computed_in: what the live model used.

        RuntimeError when checkpoint and model do not go together.
        """
        self.checkpoint, self.model, self.base, self.scale = checkpoint, model, base, scale
        self.computed_in = computed_in
        self.trained = set(checkpoint.names)
        known = {name for name, _ in model.named_parameters()}
        adapted = {name.removesuffix(end) + ".weight" for name in self.trained for end in (A, B) if name.endswith(end)}
        own = {name for name in self.trained if not is_adapter(name)}
        unknown = sorted(own - known | adapted - known)
        unread = sorted(known - own) if own and not adapted else []
        if unknown or unread:
            name = (unknown or unread)[0]
            raise RuntimeError(f"{checkpoint.folder} and the model do not have the same parameters: {name}")

    @property
    def has_adapters(self) -> bool:
        return any(map(is_adapter, self.trained))

    def tolerance(self, dtype: torch.dtype) -> float:
        """Returns how far, of the largest, logits computed in `dtype` may be from the live model's."""
        exact = dtype == self.computed_in == torch.float32
        return 1e-6 if exact else 2**-6  # bf16: a few roundings of 2**-8

    def whole(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Returns the parameter `name` of the model, fp32; an adapter to it is added in."""
        source = self.checkpoint if name in self.trained else self.base
        weight = source.read(name, shape, 0, prod(shape)).view(shape)
        layer = name.removesuffix(".weight")
        return weight + self._adapter(layer) if layer + A in self.trained else weight

    def _adapter(self, layer: str) -> torch.Tensor:
        a, b = (self.adapter(layer + end) for end in (A, B))
        change = b @ a * self.scale
        return change.T if isinstance(self.model.get_submodule(layer), Conv1D) else change

    def adapter(self, name: str) -> torch.Tensor:
        """Returns a parameter that tuning added, fp32."""
        shape = self.checkpoint.shapes["parameter", name]
        return self.checkpoint.read(name, shape, 0, prod(shape)).view(shape)
