"""What a token of a document sees through a sliding window."""

import torch


def window_mask(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """Returns which tokens each one sees, [length, length], itself and those before it; None where it sees all these.

    window: how many, itself included; None: all.
    """
    if window is None or window >= length:
        return None
    at = torch.arange(length, device=device)
    behind = at[:, None] - at[None, :]
    return (behind >= 0) & (behind < window)
