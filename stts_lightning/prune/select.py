"""Which windows leave (paper 3.3)."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

import torch
from torch import Tensor

from stts_lightning.prune.types import Selection

_said: set[tuple[float, int]] = set()


def prune_count(percent: float, num_frames: int, windows_per_frame: int) -> int:
    """floor(k / 100 * frames * windows): how many windows of a video leave.

    All frames count towards the budget, frame 0 included, though it is never touched itself (the paper's
    Table 6 pins this). Exact: 40 % of 5,184 windows is 2,073 whatever the floating point says. A request
    that would need frame 0 is clamped and said once.
    """
    if percent == 100:
        return num_frames * windows_per_frame
    wanted = math.floor(Fraction(str(percent)) / 100 * num_frames * windows_per_frame)
    available = (num_frames - 1) * windows_per_frame
    if wanted > available and (percent, num_frames) not in _said:
        _said.add((percent, num_frames))
        warnings.warn(
            f"Pruning {percent} % of a video of {num_frames} frame(s) would need frame 0, which always stays: "
            f"{available} of the {wanted} windows leave. Sample more frames or prune less.",
            stacklevel=2,
        )
    return min(wanted, available)


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
