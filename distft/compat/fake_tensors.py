"""Tensors without data, and the memory that operations on them would take."""

import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distft.compat.reach import Reach

_SEEN = "torch 2.11 to 2.13"
REACHES = (
    Reach(
        "torch._subclasses.fake_tensor.FakeTensorMode",
        _SEEN,
        "operations on shapes alone",
        takes=("allow_non_fake_inputs",),
    ),
    Reach("torch.utils._python_dispatch.TorchDispatchMode", _SEEN, "sees every operation"),
    Reach("torch.utils._pytree.tree_leaves", _SEEN, "the tensors in what an operation returns", takes=("tree",)),
    Reach("torch.UntypedStorage._cdata", _SEEN, "distinguishes storages, fake ones too"),
)


def fake_tensors() -> AbstractContextManager[Any]:
    """Returns a context in which new tensors have no data; existing ones, such as buffers, may be read."""
    return FakeTensorMode(allow_non_fake_inputs=True)


class Live(TorchDispatchMode):
    """Counts the bytes of storages that operations make and that are not yet freed.

    ignored: tensors that are not counted. sizes: of storages, in bytes, that are not counted.
    """

    def __init__(self, ignored: Iterable[torch.Tensor] = (), sizes: Iterable[int] = ()) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._ignored = {each.untyped_storage()._cdata for each in ignored}
        self._ignored_sizes = frozenset(sizes)
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf.untyped_storage())
        self.peak = max(self.peak, self.now)
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._ignored or key in self._sizes or size in self._ignored_sizes:
            return
        self._sizes[key] = size
        self.now += size
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)

    def forget(self, tensor: torch.Tensor) -> None:
        """Counts a tensor no longer."""
        self._free(tensor.untyped_storage()._cdata)

    def restart(self) -> None:
        """Begins a new peak."""
        self.peak = self.now
