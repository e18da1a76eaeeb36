"""The auxiliary loss that ties scores to temporal change (paper 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor


def auxiliary_loss(
    scores_TW: Tensor, change_TW: Tensor, frames_per_video: list[int], count_first_frame: bool
) -> Tensor:
    """Mean over the videos of each video's mean squared distance between score and temporal change.

    Frame 0 contributes nothing. The paper divides by all windows, ``count_first_frame=True``; the released
    code by those of the later frames, ``False``.
    """
    squared_TW = (scores_TW.float() - change_TW.float()) ** 2
    losses = []
    start = 0
    for frames in frames_per_video:
        later_TW = squared_TW[start + 1 : start + frames]
        counted = (frames if count_first_frame else max(frames - 1, 1)) * squared_TW.shape[1]
        losses.append(later_TW.sum() / counted)
        start += frames
    return torch.stack(losses).mean()
