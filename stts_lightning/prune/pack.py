"""First-fit-descending packing of what is left of each frame (paper 3.3, algorithm 1)."""

from __future__ import annotations

from array import array
from heapq import heappop, heappush
from typing import NamedTuple

import torch
from torch import Tensor

from stts_lightning.prune.types import Packed, Selection, Windows

Run = tuple[int, int, int]  # neighbouring rows with the same room: the first, how many, the room left in each


class Assignment(NamedTuple):
    """Where each frame begins in the rows laid end to end (row * capacity + offset), -1 for an empty frame."""

    first_slot_T: Tensor  # on the host
    num_rows: int


def first_fit_descending(counts_T: Tensor, capacity: int) -> Assignment:
    """Place the frames, largest first, each into the first row with room (algorithm 1, lines 1-15).

    ``counts_T``: on the host, 0 to ``capacity``. Frames of equal size keep their order; empty frames take no row.
    The assignment is the plain algorithm's, in far less than its T^2 steps: `_place` works on whole sizes, in plain
    Python, and only a handful of tensor operations here see the frames.
    """
    placements, num_rows = _place(counts_T.bincount(minlength=capacity + 1).tolist(), capacity)
    sizes, order = counts_T.sort(descending=True, stable=True)  # as the placements are ordered
    # An array and index_select, as torch.tensor of a list and x[index] take several times as long.
    placed, first_slot, per_row = torch.frombuffer(array("q", placements), dtype=torch.long).view(-1, 3).unbind(1)
    which = torch.repeat_interleave(placed)
    first_frame = placed.cumsum(0) - placed
    nth = torch.arange(len(sizes)) - first_frame.index_select(0, which)
    per_row = per_row.index_select(0, which)
    slot = first_slot.index_select(0, which) + nth // per_row * capacity + nth % per_row * sizes
    return Assignment(torch.empty_like(slot).scatter_(0, order, slot), num_rows)


def _place(frames_of_size: list[int], capacity: int) -> tuple[list[int], int]:
    """Place all frames, one size at a time; also the number of rows.

    Of equal frames a row takes as many as fit before the next row sees one, and neighbouring rows that were filled
    alike stay alike: so a size goes into whole runs of rows. A run is looked at only once it has room: it waits
    under its room until the sizes have come down to that, and then stands in a heap, the first rows on top.

    The placements are three numbers each, one after the other, largest frames first: how many frames, the slot of
    the first one, and how many stand in one row before the next row follows.
    """
    half = capacity // 2
    num_rows = 0
    waiting: list[list[Run]] = [[] for _ in range(half + 1)]
    for room, frames in enumerate(frames_of_size[capacity:half:-1]):  # each of these opens a row
        if frames:
            waiting[room].append((num_rows, frames, room))
            num_rows += frames
    placements = [num_rows, 0, 1]
    fitting: list[Run] = []
    for size in range(half, 0, -1):
        for run in waiting[size]:
            heappush(fitting, run)
        frames = frames_of_size[size]
        while frames:
            if not fitting:
                new_rows = -(-frames // (capacity // size))
                fitting.append((num_rows, new_rows, capacity))
                num_rows += new_rows
            first_row, rows, room = fitting[0]
            per_row = room // size
            full = frames // per_row
            if full >= rows:
                heappop(fitting)
                full, placed = rows, rows * per_row
            else:  # what is left of a run takes its place on top, as no other run begins between its rows
                placed = frames
                begun = frames - full * per_row
                if begun:
                    fitting[0] = (first_row + full, 1, room - begun * size)
                    if full + 1 < rows:
                        heappush(fitting, (first_row + full + 1, rows - full - 1, room))
                else:
                    fitting[0] = (first_row + full, rows - full, room)
            if full:
                room_left = room - per_row * size  # less than this size
                waiting[room_left].append((first_row, full, room_left))
            placements += (placed, (first_row + 1) * capacity - room, per_row)
            frames -= placed
    placements += (frames_of_size[0], -1, frames_of_size[0])  # the empty frames: all at one place, which is none
    return placements, num_rows


def kept_patches(selection: Selection, windows: Windows, num_patches: int) -> Tensor:
    """(T * N,) True for the patches of kept windows."""
    indices = windows.table_MP[selection.kept_K].flatten()
    keep = torch.zeros(num_patches + 1, dtype=torch.bool, device=indices.device)
    keep[indices % (num_patches + 1)] = True  # -1, an overhanging slot, lands on the place that is cut off
    return keep[:num_patches]


def lone_frames(keep_TN: Tensor) -> Tensor:
    """(T,) True for the frames that first-fit-descending leaves alone in their row."""
    num_patches = keep_TN.shape[1]
    return _lone(first_fit_descending(keep_TN.sum(1).cpu(), num_patches), num_patches).to(keep_TN.device)


def _lone(assignment: Assignment, capacity: int) -> Tensor:
    place_T = assignment.first_slot_T // capacity + 1  # the row from 1 on, 0 for empty frames
    return (place_T.bincount()[place_T] == 1) & (place_T > 0)


def pack(keep_TN: Tensor, refill_lone_frames: bool = False) -> Packed:
    """Plan rows of N slots for the kept patches of (T, N) frames.

    ``refill_lone_frames``: a row that holds one frame gets all of that frame's patches back, as context for
    the ViT only (released code). They get slots, but ``slot_of_patch`` stays -1 for them.
    """
    num_frames, num_patches = keep_TN.shape
    device = keep_TN.device
    counts_T = keep_TN.sum(1).cpu()  # first-fit-descending depends on the data: the one synchronisation
    assignment = first_fit_descending(counts_T, num_patches)
    num_rows = assignment.num_rows
    placed_TN = keep_TN
    if refill_lone_frames:
        placed_TN = keep_TN | _lone(assignment, num_patches).to(device)[:, None]
    slot_TN = assignment.first_slot_T.to(device)[:, None] + placed_TN.cumsum(1) - 1

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
