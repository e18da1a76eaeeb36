"""The attention bias through which the task loss reaches the scorer (paper 3.2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
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
    """The bias of every patch of a frame as a key, (T, N): the same for all heads and queries."""
    return bias_TW.flatten().index_select(0, window_of_patch).view(-1, num_patches)


def append_key_bias(
    query: Tensor, key: Tensor, value: Tensor, bias_TN: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(T, H, N, D) each, widened so that ``scale * query @ key`` holds the bias.

    A bias of the keys alone is one more dimension, 1 in every query and ``bias / scale`` in the key. An additive mask
    with a gradient would keep attention from the fast kernels, and cost (T, H, N, N) in the backward pass. Filled up
    to a multiple of 8, which those kernels want; of the result the first D dimensions count.
    """
    dim = query.shape[-1]
    filling = -(dim + 1) % 8
    one = torch.ones_like(query[..., :1])
    bias = (bias_TN / scale).to(key.dtype)[:, None, :, None].expand(*key.shape[:-1], 1)
    query, key = torch.cat([query, one], dim=-1), torch.cat([key, bias], dim=-1)
    return F.pad(query, (0, filling)), F.pad(key, (0, filling)), F.pad(value, (0, filling + 1))
