"""How what is left of the frames goes through the ViT blocks after l+1."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stts_lightning.molmo2.attention import Segments
from stts_lightning.prune.flat import flatten, flatten_patches
from stts_lightning.prune.pack import (
    block_diagonal_mask,
    gather_rows,
    kept_patches,
    lone_frames,
    pack,
    repack_table,
)
from stts_lightning.prune.types import Selection, Windows


class Arrangement(NamedTuple):
    """``source_RN``: flat patch index by slot, -1 where a slot is unused; ``table_KP``: the slots of each kept
    window's patches; a block takes ``mask`` or ``segments``, whichever is not None."""

    source_RN: Tensor
    table_KP: Tensor
    mask: Tensor | None
    segments: Segments | None

    def gather(self, x_TND: Tensor) -> Tensor:
        """(T, N, D) to (R, N', D)."""
        return gather_rows(x_TND, self.source_RN)


def arrange(
    selection: Selection, windows: Windows, num_patches: int, layout: str, refill_lone_frames: bool, dtype: torch.dtype
) -> Arrangement:
    """`flat`: one sequence without padding; `packed`: the paper's rows of N slots (3.3, algorithm 1).

    ``refill_lone_frames``: a frame that would have a packed row to itself gets all its patches back as context.
    """
    if layout == "flat" and not refill_lone_frames:
        flat = flatten(selection, windows, num_patches)
    else:
        num_frames = len(selection.keep_TW)
        keep_TN = kept_patches(selection, windows, num_frames * num_patches).view(num_frames, num_patches)
        table_KP = windows.table_MP[selection.kept_K]
        if layout == "packed":
            packed = pack(keep_TN, refill_lone_frames)
            mask = block_diagonal_mask(packed, dtype)
            return Arrangement(packed.source_RN, repack_table(table_KP, packed), mask, None)
        flat = flatten_patches(keep_TN | lone_frames(keep_TN)[:, None], table_KP)
    return Arrangement(flat.source_S[None], flat.table_KP, None, Segments(flat.bounds_T1, flat.longest))
