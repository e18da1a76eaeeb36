"""Larger windows instead of fewer: a frame cut into any number of nearly square windows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stts_lightning.prune.types import Windows


def counts_by_frame(budget: int, num_frames: int) -> list[int]:
    """The budget of a video shared evenly among its frames, to the window."""
    edges = [t * budget // num_frames for t in range(num_frames + 1)]
    return [after - before for before, after in zip(edges, edges[1:], strict=False)]


def coarse_windows(rows: int, columns: int, count: int) -> list[list[int]]:
    """Cut a grid of patches into ``count`` windows of nearly one size: bands of rows, each cut into equal widths.

    Returns:
        the patches of each window, row * columns + column.
    """
    num_bands = min(max(round(math.sqrt(count * rows / columns)), 1), count, rows)
    windows, done = [], 0
    for wide in counts_by_frame(count, num_bands):
        ys = range(round(rows * done / count), round(rows * (done + wide) / count))  # as high as it has windows
        done += wide
        for i in range(wide):
            xs = range(i * columns // wide, (i + 1) * columns // wide)
            windows.append([y * columns + x for y in ys for x in xs])
    return windows


def coarse_table(windows: Windows, num_patches: int) -> Tensor:
    """(K, P') flat patch indices of the larger windows of all frames, -1 where a window has fewer than P' patches.

    Raises:
        ValueError: windows hang over the edge of their frame, so that the frame's size in patches is not known.
    """
    if not windows.tile(num_patches):
        raise ValueError("coarser_pooling needs windows that tile the frame: choose an image_size of whole windows.")
    side = math.isqrt(windows.table_MP.shape[1])
    rows, columns = windows.rows * side, windows.columns * side
    counts = _counts(windows)
    cuts = {count: coarse_windows(rows, columns, count) for count in set(counts) if count}
    longest = max(len(window) for cut in cuts.values() for window in cut)
    tables = {
        count: torch.tensor([window + [-1] * (longest - len(window)) for window in cut]) for count, cut in cuts.items()
    }
    parts = [
        torch.where(tables[count] >= 0, tables[count] + frame * num_patches, -1)
        for frame, count in enumerate(counts)
        if count
    ]
    return torch.cat(parts).to(windows.table_MP.device, non_blocking=True)


def placeholders_left(windows: Windows) -> Tensor:
    """(T, W) True at the first placeholders of each frame, as many as it has larger windows."""
    keep_TW = torch.arange(windows.windows_per_frame) < torch.tensor(_counts(windows))[:, None]
    return keep_TW.to(windows.table_MP.device, non_blocking=True)


def _counts(windows: Windows) -> list[int]:
    by_video = zip(windows.frames_per_video, windows.budget(), strict=True)
    return [count for frames, budget in by_video for count in counts_by_frame(budget, frames)]
