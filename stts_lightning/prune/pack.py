"""First-fit-descending packing of what is left of each frame (paper 3.3, algorithm 1)."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from stts_lightning.prune.types import Packed, Selection, Windows


class Assignment(NamedTuple):
    """Row and first slot of each frame; row -1 for a frame that lost everything."""

    row: list[int]
    offset: list[int]
    num_rows: int


class Run(NamedTuple):
    """Neighbouring rows with the same room left."""

    first_row: int
    num_rows: int
    room: int


class Placement(NamedTuple):
    """Frames of one size that went into a run: row after row, ``per_row`` each, from ``offset`` on."""

    first_frame: int
    num_frames: int
    size: int
    first_row: int
    per_row: int
    offset: int


def first_fit_descending(counts: list[int], capacity: int) -> Assignment:
    """Place the frames, largest first, each into the first row with room (algorithm 1, lines 1-15).

    Frames of equal size keep their order; empty frames take no row. The assignment is the plain algorithm's, in
    far less than its T^2 steps: of equal frames a row takes as many as fit before the next row sees one, and rows
    that were filled alike stay alike, so whole sizes are placed into whole runs of rows.
    """
    counts_T = torch.tensor(counts, dtype=torch.long)  # on the host, like all of this
    row, offset = torch.full_like(counts_T, -1), torch.zeros_like(counts_T)
    sizes, order = counts_T.sort(descending=True, stable=True)
    num_frames = int((counts_T > 0).sum())
    if not num_frames:
        return Assignment(row.tolist(), offset.tolist(), 0)
    placements, num_rows = _place(sizes[:num_frames], capacity)
    first_frame, placed, size, first_row, per_row, first_offset = torch.tensor(placements).unbind(1)
    which = torch.arange(len(placements)).repeat_interleave(placed)
    nth = torch.arange(num_frames) - first_frame[which]
    order = order[:num_frames]
    row[order] = first_row[which] + nth // per_row[which]
    offset[order] = first_offset[which] + nth % per_row[which] * size[which]
    return Assignment(row.tolist(), offset.tolist(), num_rows)


def _place(sizes: Tensor, capacity: int) -> tuple[list[Placement], int]:
    """Place descending ``sizes``, one distinct size at a time; also the number of rows."""
    distinct, frames = sizes.unique_consecutive(return_counts=True)
    ends = frames.cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    smallest = int(sizes[-1])
    runs: list[Run] = []
    placements: list[Placement] = []
    num_rows = 0
    for frame, end, size in zip(starts, ends, distinct.tolist(), strict=True):
        new_rows = -(-(end - frame) // (capacity // size))  # more than are needed: what is not used is cut off
        left: list[Run] = []
        for i, run in enumerate([*runs, Run(num_rows, new_rows, capacity)]):
            if frame == end:
                left += runs[i:]
                break
            if run.room < size:
                left.append(run)
                continue
            per_row = run.room // size
            taken = min(end - frame, per_row * run.num_rows)
            placements.append(Placement(frame, taken, size, run.first_row, per_row, capacity - run.room))
            frame += taken
            used = _split(run, taken, per_row, size)
            if i == len(runs):  # the new rows: those that stayed empty are none
                used = [part for part in used if part.room < capacity]
                num_rows += sum(part.num_rows for part in used)
            left += used
        runs = [run for run in left if run.room >= smallest]
    return placements, num_rows


def _split(run: Run, taken: int, per_row: int, size: int) -> list[Run]:
    """A run after its first rows took ``taken`` frames: the full ones, the one begun, the untouched ones."""
    full, rest = divmod(taken, per_row)
    first, last = run.first_row, run.first_row + run.num_rows
    cuts = [(first, first + full, per_row), (first + full, first + full + (rest > 0), rest)]
    cuts.append((first + full + (rest > 0), last, 0))
    return [Run(start, end - start, run.room - took * size) for start, end, took in cuts if end > start]


def kept_patches(selection: Selection, windows: Windows, num_patches: int) -> Tensor:
    """(T * N,) True for the patches of kept windows."""
    indices = windows.table_MP[selection.kept_K].flatten()
    keep = torch.zeros(num_patches + 1, dtype=torch.bool, device=indices.device)
    keep[indices % (num_patches + 1)] = True  # -1, an overhanging slot, lands on the place that is cut off
    return keep[:num_patches]


def lone_frames(keep_TN: Tensor) -> Tensor:
    """(T,) True for the frames that first-fit-descending leaves alone in their row."""
    return _lone(first_fit_descending(keep_TN.sum(1).tolist(), keep_TN.shape[1]), keep_TN.device)


def _lone(assignment: Assignment, device: torch.device) -> Tensor:
    frames_in_row = Counter(assignment.row)
    return torch.tensor([j >= 0 and frames_in_row[j] == 1 for j in assignment.row], device=device)


def pack(keep_TN: Tensor, refill_lone_frames: bool = False) -> Packed:
    """Plan rows of N slots for the kept patches of (T, N) frames.

    ``refill_lone_frames``: a row that holds one frame gets all of that frame's patches back, as context for
    the ViT only (released code). They get slots, but ``slot_of_patch`` stays -1 for them.
    """
    num_frames, num_patches = keep_TN.shape
    device = keep_TN.device
    counts = keep_TN.sum(1).tolist()  # first-fit-descending depends on the data: the one synchronisation
    assignment = first_fit_descending(counts, num_patches)
    row, offset, num_rows = assignment
    placed_TN = keep_TN | _lone(assignment, device)[:, None] if refill_lone_frames else keep_TN
    first_slot = torch.tensor([r * num_patches + o for r, o in zip(row, offset, strict=True)], device=device)
    slot_TN = first_slot[:, None] + placed_TN.cumsum(1) - 1

    # Patches without a slot are written to one extra place at the end, which is cut off.
    target = torch.where(placed_TN, slot_TN, num_rows * num_patches).flatten()
    source = torch.full((num_rows * num_patches + 1,), -1, device=device)
    source[target] = torch.arange(num_frames * num_patches, device=device)
    source_RN = source[:-1].view(num_rows, num_patches)
    segment_RN = torch.where(source_RN >= 0, source_RN // num_patches, -1)
    slot_of_patch = torch.where(keep_TN, slot_TN, -1).flatten()
    return Packed(source_RN, segment_RN, slot_of_patch)


def gather_rows(x_TND: Tensor, source_RN: Tensor) -> Tensor:
    """The slots' contents, (R, N, D). Unused slots hold a copy of patch 0: they are read by nobody."""
    chosen = x_TND.flatten(0, 1).index_select(0, source_RN.flatten().clamp(min=0))
    return chosen.view(*source_RN.shape, x_TND.shape[-1])


def block_diagonal_mask(packed: Packed, dtype: torch.dtype) -> Tensor:
    """Additive mask (R, 1, N, N): a token sees its own source frame; an unused slot sees itself alone.

    The diagonal is open everywhere and the masked value is finite, so no row of the softmax is empty.
    """
    segment_RN = packed.segment_RN
    same = (segment_RN[:, :, None] == segment_RN[:, None, :]) & (segment_RN >= 0)[:, :, None]
    same |= torch.eye(segment_RN.shape[1], dtype=torch.bool, device=segment_RN.device)
    mask = torch.zeros(same.shape, dtype=dtype, device=same.device)
    return mask.masked_fill_(~same, torch.finfo(dtype).min)[:, None]


def repack_table(table_KP: Tensor, packed: Packed) -> Tensor:
    """The kept windows' patch table in terms of packed slots, -1 where a window hangs over."""
    return torch.where(table_KP >= 0, packed.slot_of_patch[table_KP.clamp(min=0)], -1)
