"""What is left of all frames as one sequence, without padding: the layout that fast attention kernels want."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stts_lightning.prune.pack import kept_patches
from stts_lightning.prune.types import Selection, Windows


class Segments(NamedTuple):
    """Which tokens of a flat sequence see each other: one segment a frame, the longest first.

    ``bounds_T1``: where each segment begins, and the end, int32 as variable-length kernels take it.
    ``longest``: an upper bound of a segment's length, known from shapes. ``runs``: how many segments of which
    length follow each other, or None where a kernel reads ``bounds_T1`` itself.
    """

    bounds_T1: Tensor
    longest: int
    runs: list[tuple[int, int]] | None


class Flat(NamedTuple):
    """The kept patches of all frames, in an order that suits attention.

    ``source_S``: flat patch index of each of the S places. ``table_KP``: the places of each kept window's
    patches, -1 where it hangs over the frame's edge; None where window follows window without a gap, and then
    ``restore_K`` brings the windows back into the order of the videos.
    """

    source_S: Tensor
    segments: Segments
    table_KP: Tensor | None
    restore_K: Tensor | None


def flatten(selection: Selection, windows: Windows, num_patches: int, dtype: torch.dtype) -> Flat:
    """Plan one sequence for the kept patches of frames of ``num_patches`` patches, of features in ``dtype``.

    Where the windows tile the frame exactly, every length follows from shapes and nothing waits for the device.
    """
    patches_per_window = windows.table_MP.shape[1]
    if not windows.tile(num_patches):
        keep = kept_patches(selection, windows, len(selection.keep_TW) * num_patches)
        return flatten_patches(keep.view(-1, num_patches), windows.table_MP[selection.kept_K], dtype)
    counts_T = selection.keep_TW.sum(1) * patches_per_window
    order_T = counts_T.argsort(descending=True, stable=True)
    rank_T = order_T.argsort()
    order_K = rank_T[selection.kept_K // windows.windows_per_frame].argsort(stable=True)
    source_S = windows.table_MP[selection.kept_K[order_K]].flatten()
    return Flat(source_S, _segments(counts_T[order_T], num_patches, dtype), None, order_K.argsort())


def flatten_patches(placed_TN: Tensor, table_KP: Tensor, dtype: torch.dtype) -> Flat:
    """As `flatten`, for any choice of patches: overhanging windows, or patches that are context alone."""
    counts_T = placed_TN.sum(1)
    order_T = counts_T.argsort(descending=True, stable=True)
    num_patches = placed_TN.shape[1]
    patches_TN = torch.arange(placed_TN.numel(), device=placed_TN.device).view_as(placed_TN)[order_T]
    source_S = patches_TN[placed_TN[order_T]]
    place_of_patch = torch.full((placed_TN.numel(),), -1, device=placed_TN.device)
    place_of_patch[source_S] = torch.arange(len(source_S), device=placed_TN.device)
    places = torch.where(table_KP >= 0, place_of_patch[table_KP.clamp(min=0)], -1)
    return Flat(source_S, _segments(counts_T[order_T], num_patches, dtype), places, None)


def _segments(lengths_T: Tensor, longest: int, dtype: torch.dtype) -> Segments:
    kernel = lengths_T.device.type != "cpu" and dtype in (torch.float16, torch.bfloat16)
    runs = None if kernel else [(n, length) for length, n in Counter(lengths_T.tolist()).items() if length]
    return Segments(F.pad(lengths_T.cumsum(0), (1, 0)).int(), longest, runs)


def segment_attention(q_SHD: Tensor, k_SHD: Tensor, v_SHD: Tensor, segments: Segments, scale: float) -> Tensor:
    """Attention within each segment of one flat sequence, (S, H, D) each.

    On a GPU in half precision one variable-length kernel; elsewhere one call for all segments of a length, on
    views that are neither copied nor padded.
    """
    if segments.runs is None:
        from torch.nn.attention.varlen import varlen_attn

        bounds, longest = segments.bounds_T1, segments.longest
        out = varlen_attn(q_SHD, k_SHD, v_SHD, bounds, bounds, longest, longest, scale=scale)
        assert isinstance(out, Tensor)
        return out
    sizes = [count * length for count, length in segments.runs]
    attended = []
    for run, *parts in zip(segments.runs, *(x.split(sizes) for x in (q_SHD, k_SHD, v_SHD)), strict=True):
        q, k, v = (x.unflatten(0, run).transpose(1, 2) for x in parts)
        attended.append(F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(0, 1))
    return torch.cat(attended)
