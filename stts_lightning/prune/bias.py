"""The attention bias through which the task loss reaches the scorer (paper 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stts_lightning.prune.types import Windows

RELEASED_MIN = math.exp(-2)


def paper_bias(log_scores_TW: Tensor, first_T: Tensor) -> Tensor:
    """Log of the scores by window; frame 0 gets none."""
    return log_scores_TW.masked_fill(first_T[:, None], 0.0)


def released_bias(scores_TW: Tensor, first_T: Tensor, windows: Windows) -> Tensor:
    """Scores rescaled along each row of windows to [e^-2, 1], then the log: between -2 and 0.

    The released code rescales each row of patches after nearest upsampling, which has the same extremes as
    the row of windows. A constant row gets -2 everywhere, as there.
    """
    rows = scores_TW.unflatten(1, (windows.rows, windows.columns))
    low, high = rows.amin(-1, keepdim=True), rows.amax(-1, keepdim=True)
    scaled = RELEASED_MIN + (rows - low) * (1 - RELEASED_MIN) / (high - low + 1e-6)
    return torch.log(scaled).flatten(1).masked_fill(first_T[:, None], 0.0)


def expand_to_patches(bias_TW: Tensor, window_of_patch: Tensor, num_patches: int) -> Tensor:
    """A key bias for every patch of a frame, (T, 1, 1, N): the same for all heads and queries."""
    bias_TN = bias_TW.flatten()[window_of_patch].view(-1, num_patches)
    return bias_TN[:, None, None, :]
