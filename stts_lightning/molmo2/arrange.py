"""How what is left of the frames goes through the ViT blocks after l+1, and comes out by window."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stts_lightning.prune.flat import Flat, Segments, flatten, flatten_patches
from stts_lightning.prune.pack import (
    block_diagonal_mask,
    gather_rows,
    kept_patches,
    lone_frames,
    pack,
    repack_table,
)
from stts_lightning.prune.types import Selection, Windows
from stts_lightning.prune.windows import gather_windows


class Arrangement(NamedTuple):
    """``source_RN``: flat patch index by slot, -1 where a slot is unused; ``table_KP``: the slots of each kept
    window's patches, None where the windows stand one after the other, to be put in order by ``restore_K``; a
    block takes ``mask`` or ``segments``, whichever is not None."""

    source_RN: Tensor
    table_KP: Tensor | None
    restore_K: Tensor | None
    patches_per_window: int
    mask: Tensor | None
    segments: Segments | None

    def gather(self, x_TND: Tensor) -> Tensor:
        """(T, N, D) to (R, N', D)."""
        return gather_rows(x_TND, self.source_RN)

    def windows(self, x_RND: Tensor) -> tuple[Tensor, Tensor | None]:
        """(R, N', D) to (K, P, D), and the (K, P) mask of real patches, None where all are."""
        if self.table_KP is None:
            return x_RND.view(-1, self.patches_per_window, x_RND.shape[-1]), None
        return gather_windows(x_RND, self.table_KP)

    def restore(self, x_KD: Tensor) -> Tensor:
        """The windows in the order of the videos."""
        return x_KD if self.restore_K is None else x_KD.index_select(0, self.restore_K)


def arrange(
    selection: Selection, windows: Windows, num_patches: int, layout: str, refill_lone_frames: bool, dtype: torch.dtype
) -> Arrangement:
    """`flat`: one sequence without padding; `packed`: the paper's rows of N slots (3.3, algorithm 1).

    ``refill_lone_frames``: a frame that would have a packed row to itself gets all its patches back as context.
    """
    if layout == "flat" and not refill_lone_frames:
        return _flat(flatten(selection, windows, num_patches, dtype), windows)
    num_frames = len(selection.keep_TW)
    keep_TN = kept_patches(selection, windows, num_frames * num_patches).view(num_frames, num_patches)
    table_KP = windows.table_MP[selection.kept_K]
    if layout == "flat":
        return _flat(flatten_patches(keep_TN | lone_frames(keep_TN)[:, None], table_KP, dtype), windows)
    packed = pack(keep_TN, refill_lone_frames)
    mask = block_diagonal_mask(packed, dtype)
    table_KP = repack_table(table_KP, packed)
    return Arrangement(packed.source_RN, table_KP, None, table_KP.shape[1], mask, None)


def _flat(flat: Flat, windows: Windows) -> Arrangement:
    patches_per_window = windows.table_MP.shape[1]
    return Arrangement(flat.source_S[None], flat.table_KP, flat.restore_K, patches_per_window, None, flat.segments)
