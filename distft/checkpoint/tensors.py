"""Tensors as safetensors files that others on a shared disk may read."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file


def save_tensors(tensors: dict[str, torch.Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file with the permissions that any new file has; the library's own are 0600.

    OSError when the disk takes no more; the library's own error is none.
    """
    try:
        save_file(tensors, file, metadata=metadata)
    except SafetensorError as error:
        raise OSError(f"{file}: {error}") from error
    umask = os.umask(0)
    os.umask(umask)
    file.chmod(0o666 & ~umask)
