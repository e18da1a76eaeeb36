"""From patches to windows and back."""

from __future__ import annotations

import torch
from torch import Tensor

from stts_lightning.prune.types import Windows


def gather_windows(x_TND: Tensor, table_MP: Tensor, tiles: bool = False) -> tuple[Tensor, Tensor | None]:
    """Patches by window: (M, P, D) with zeros in overhanging slots, and the (M, P) mask of real patches.

    ``tiles``: no window hangs over; then there is nothing to mask and the mask is None.
    """
    flat = x_TND.reshape(-1, x_TND.shape[-1])
    shape = (*table_MP.shape, flat.shape[-1])
    if tiles:
        return flat.index_select(0, table_MP.flatten()).view(shape), None
    valid_MP = table_MP >= 0
    x_MPD = flat.index_select(0, table_MP.flatten().clamp(min=0)).view(shape)
    return x_MPD * valid_MP[..., None].to(x_MPD.dtype), valid_MP


def mean_pool(x_MPD: Tensor, valid_MP: Tensor | None) -> Tensor:
    """Mean over the real patches of each window, (M, D)."""
    if valid_MP is None:
        return x_MPD.sum(1) / x_MPD.shape[1]
    count = valid_MP.sum(1, keepdim=True).clamp(min=1)
    return x_MPD.sum(1) / count.to(x_MPD.dtype)


def window_of_patch(windows: Windows, num_patches: int) -> Tensor:
    """The inverse table: (num_patches,) window index of each patch of the batch.

    The windows tile the frame, so every patch has exactly one.
    """
    table_MP = windows.table_MP
    owner = torch.arange(len(table_MP), device=table_MP.device)[:, None].expand_as(table_MP)
    # Overhanging slots (-1) are written to one extra place at the end, which is cut off.
    inverse = torch.zeros(num_patches + 1, dtype=torch.long, device=table_MP.device)
    inverse[table_MP.flatten() % (num_patches + 1)] = owner.flatten()
    return inverse[:num_patches]


def is_first_frame(frames_per_video: list[int], device: torch.device) -> Tensor:
    """(T,) True at the first frame of each video."""
    # Built on the host from host integers: no synchronisation with the device.
    flags = [i == 0 for frames in frames_per_video for i in range(frames)]
    return torch.tensor(flags, dtype=torch.bool).to(device, non_blocking=True)


def previous_frame(x_TWD: Tensor, first_T: Tensor) -> Tensor:
    """Each frame's predecessor in its own video; zeros before the first frame of each video (paper 3.1)."""
    shifted = torch.roll(x_TWD, 1, dims=0)
    return shifted.masked_fill(first_T[:, None, None], 0.0)
