"""Token Merging (Bolya et al., ICLR 2023; appendix C of the paper), on the windows of a frame.

What the language model gets is a window, so windows are merged: two become one of as many patches, each the mean of
the two that stood in its place, weighted by how many windows it stands for already.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Merged(NamedTuple):
    """What is left of each frame's windows, in their order: features, the number of windows that each stands for, and
    which window of the whole frame it was."""

    x_TWPD: Tensor
    size_TW: Tensor
    window_TW: Tensor


def merge(state: Merged, metric_TWD: Tensor, count: int) -> Merged:
    """Bipartite soft matching: every second window proposes to the most similar of the others (cosine of
    ``metric_TWD``), and the ``count`` best proposals of each frame are merged. Of equals the earlier one wins.

    ``count`` is at most half of the windows.
    """
    if count == 0:
        return state
    num_windows = metric_TWD.shape[1]
    assert 0 < count <= num_windows // 2, f"{count} of {num_windows} windows cannot be merged at once"
    metric_TWD = F.normalize(metric_TWD.detach().float(), dim=-1)
    similarity_TAB = metric_TWD[:, 0::2] @ metric_TWD[:, 1::2].transpose(1, 2)
    best_TA, partner_TA = similarity_TAB.max(-1)
    source_TR = best_TA.argsort(dim=-1, descending=True, stable=True)[:, :count]
    target_TR = partner_TA.gather(1, source_TR) * 2 + 1
    source_TR = source_TR * 2

    size_TW = state.size_TW.scatter_add(1, target_TR, state.size_TW.gather(1, source_TR))
    weighted = state.x_TWPD * state.size_TW[..., None, None].to(state.x_TWPD.dtype)
    moved = weighted.gather(1, _like(source_TR, weighted))
    x_TWPD = weighted.scatter_add(1, _like(target_TR, weighted), moved)
    x_TWPD = x_TWPD / size_TW[..., None, None].to(x_TWPD.dtype)

    left_TW = torch.ones_like(state.size_TW).scatter(1, source_TR, 0.0)
    rest_TK = left_TW.argsort(dim=-1, descending=True, stable=True)[:, : num_windows - count].sort(-1).values
    return Merged(
        x_TWPD.gather(1, _like(rest_TK, x_TWPD)), size_TW.gather(1, rest_TK), state.window_TW.gather(1, rest_TK)
    )


def merges_by_block(num_windows: int, left: int, num_blocks: int) -> list[int]:
    """How many windows are merged after each block, so that ``left`` remain: the same number after every block, as far
    as whole numbers and halves allow. A last block that would have to merge more than half gets more than one turn."""
    counts = []
    for block in range(num_blocks):
        count = min(-(-(num_windows - left) // (num_blocks - block)), num_windows // 2)
        counts.append(count)
        num_windows -= count
    while num_windows > left:
        counts.append(min(num_windows - left, num_windows // 2))
        num_windows -= counts[-1]
    return counts


def _like(index_TK: Tensor, x_TWPD: Tensor) -> Tensor:
    return index_TK[..., None, None].expand(-1, -1, *x_TWPD.shape[2:])
