"""Which dtype a model computes in; weights, moments and sums stay fp32 whatever it is."""

import torch


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Returns the dtype for `fp32`, `bf16`, or `auto`: bf16 where the device multiplies it natively, else fp32."""
    if precision == "auto":
        native = device.type != "cpu" and torch.accelerator.is_available() and _bf16_native(device)
        return torch.bfloat16 if native else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def exact_products() -> dict[str, object]:
    """Has products of fp32 made in fp32 and those of bf16 added up in fp32, on devices that would round more; returns
    what is in force. Not run on a device yet."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    return {
        "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
        "bf16_reduced_precision_reduction": torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def _bf16_native(device: torch.device) -> bool:
    """Returns whether an accelerator has bf16 units (CUDA: Ampere and later). Not run on a GPU yet."""
    return torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else True
