"""What is left of all frames as one sequence, without padding: the layout that fast attention kernels want."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stts_lightning.prune.pack import kept_patches
from stts_lightning.prune.types import Selection, Windows


class Flat(NamedTuple):
    """The kept patches of all frames, frame after frame, window after window.

    ``source_S``: flat patch index of each of the S places. ``bounds_T1``: where each frame begins, and the
    end, int32 as variable-length kernels take it. ``longest``: an upper bound of a frame's length, known from
    shapes. ``table_KP``: the places of each kept window's patches, -1 where it hangs over the frame's edge.
    """

    source_S: Tensor
    bounds_T1: Tensor
    longest: int
    table_KP: Tensor


def flatten(selection: Selection, windows: Windows, num_patches: int) -> Flat:
    """Plan one sequence for the kept patches of frames of ``num_patches`` patches.

    Where the windows tile the frame exactly, every length follows from shapes and nothing waits for the device.
    """
    table_KP = windows.table_MP[selection.kept_K]
    patches_per_window = table_KP.shape[1]
    if windows.windows_per_frame * patches_per_window != num_patches:
        num_frames = len(selection.keep_TW)
        return flatten_patches(
            kept_patches(selection, windows, num_frames * num_patches).view(num_frames, -1), table_KP
        )
    bounds_T1 = F.pad((selection.keep_TW.sum(1) * patches_per_window).cumsum(0), (1, 0)).int()
    places = torch.arange(table_KP.numel(), device=table_KP.device).view_as(table_KP)
    return Flat(table_KP.flatten(), bounds_T1, num_patches, places)


def flatten_patches(placed_TN: Tensor, table_KP: Tensor) -> Flat:
    """As `flatten`, for any choice of patches: overhanging windows, or patches that are context alone."""
    bounds_T1 = F.pad(placed_TN.sum(1).cumsum(0), (1, 0)).int()
    placed = placed_TN.flatten()
    place_of_patch = placed.cumsum(0) - 1
    places = torch.where(table_KP >= 0, place_of_patch[table_KP.clamp(min=0)], -1)
    return Flat(placed.nonzero().flatten(), bounds_T1, placed_TN.shape[1], places)


def segment_attention(
    q_HSD: Tensor, k_HSD: Tensor, v_HSD: Tensor, bounds_T1: Tensor, longest: int, scale: float
) -> Tensor:
    """Attention within each segment of one flat sequence, (H, S, D) each.

    On a GPU in half precision one variable-length kernel; elsewhere one call a segment, on slices that are
    never padded.
    """
    if q_HSD.is_cuda and q_HSD.dtype in (torch.float16, torch.bfloat16):
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (x.transpose(0, 1).contiguous() for x in (q_HSD, k_HSD, v_HSD))
        out = varlen_attn(q, k, v, bounds_T1, bounds_T1, longest, longest, scale=scale)
        assert isinstance(out, Tensor)
        return out.transpose(0, 1)
    lengths = bounds_T1.diff().tolist()
    parts = zip(*(x.split(lengths, dim=1) for x in (q_HSD, k_HSD, v_HSD)), strict=True)
    attended = [
        F.scaled_dot_product_attention(q[None], k[None], v[None], scale=scale)[0] for q, k, v in parts if q.shape[1]
    ]
    return torch.cat(attended, dim=1)
