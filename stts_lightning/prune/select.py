"""Which windows leave (paper 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from stts_lightning.prune.budget import prune_count
from stts_lightning.prune.types import Selection


def select(scores_TW: Tensor, frames_per_video: list[int], percent: float) -> Selection:
    """Drop the lowest scores of each video, over the whole video; frame 0 stays.

    Ties go the same way every time: of equal scores the earlier window leaves first. The counts follow from
    shapes alone, so nothing waits for the device. ``percent=100`` empties every video, frame 0 included.
    """
    keep_parts, kept_parts, kept_per_video = [], [], []
    windows_per_frame = scores_TW.shape[1]
    start = 0
    for frames in frames_per_video:
        scores = scores_TW[start : start + frames].detach().float()
        count = prune_count(percent, frames, windows_per_frame)
        guarded = torch.cat([torch.full_like(scores[:1], torch.inf), scores[1:]]).flatten()
        kept = guarded.argsort(stable=True)[count:].sort().values
        keep = torch.zeros(frames * windows_per_frame, dtype=torch.bool, device=scores.device)
        keep_parts.append(keep.scatter(0, kept, True).view(frames, windows_per_frame))
        kept_parts.append(kept + start * windows_per_frame)
        kept_per_video.append(frames * windows_per_frame - count)
        start += frames
    return Selection(torch.cat(keep_parts), torch.cat(kept_parts), kept_per_video)
