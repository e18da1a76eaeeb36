"""From frames to the patches and windows that Molmo2's vision tower and connector take. No decoder.

T: frames; S: side of a frame in pixels; p: side of a patch; N: patches a frame, (S / p) ** 2; w: side of a
window, in patches.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class VideoGrid(NamedTuple):
    """How many frames, and how many rows and columns of windows each has: a row of Molmo2's `video_grids`."""

    frames: int
    window_rows: int
    window_cols: int


def resize_frames(frames: np.ndarray, size: int) -> np.ndarray:
    """(n, H, W, 3) uint8 -> (n, S, S, 3) uint8 as Molmo2 does it: bilinear, no antialias, aspect not kept."""
    if frames.shape[1:3] == (size, size):
        return frames
    out = np.empty((len(frames), size, size, 3), dtype=np.uint8)
    # One frame at a time through one buffer: for several the system hands out fresh pages every time, which takes
    # longer than the resizing. numpy fills it, as torch takes no negative strides (a turned frame).
    buffer = np.empty((1, *frames.shape[1:]), dtype=np.float32)
    pixels = torch.from_numpy(buffer).permute(0, 3, 1, 2)
    for frame, resized in zip(frames, out, strict=True):
        buffer[0] = frame
        square = F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False, antialias=False)
        resized[:] = square.round_().clamp_(0, 255).to(torch.uint8)[0].permute(1, 2, 0).numpy()
    return out


def frames_to_patches(frames: Tensor, patch_size: int) -> Tensor:
    """(T, S, S, 3) uint8 -> (T, N, p * p * 3) float32 in [-1, 1]: mean 0.5 and standard deviation 0.5.

    Patches run row by row over the frame; within a patch the order is row, column, colour.

    Raises ValueError for frames that are not uint8 or whose side the patch does not divide.
    """
    if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.shape[3] != 3:
        raise ValueError(f"frames must be uint8 (T, S, S, 3), got {frames.dtype} {tuple(frames.shape)}")
    count, height, width, _ = frames.shape
    if height % patch_size or width % patch_size:
        raise ValueError(f"frames of {height} x {width} do not split into patches of {patch_size}: change the size")
    rows, cols = height // patch_size, width // patch_size
    patches = frames.reshape(count, rows, patch_size, cols, patch_size, 3).transpose(2, 3)
    # Bytes become floats on the way to their place in the patch: cut afterwards, four times as much would move.
    pixels = patches.to(torch.float32, memory_format=torch.contiguous_format)
    # (x / 255 - 0.5) / 0.5 with the scale folded into the mean and deviation, as Transformers does.
    return pixels.sub_(127.5).div_(127.5).reshape(count, rows * cols, patch_size * patch_size * 3)


def window_table(num_frames: int, rows: int, cols: int, window: int) -> Tensor:
    """Which patches each w x w window pools: (T * window_rows * window_cols, w * w) int64, Molmo2's
    `video_token_pooling` of one video.

    A patch's number counts through the frames of the video: frame * rows * cols + row * cols + col. -1 stands
    where a window reaches past a grid that w does not divide; the padding is halved over both sides, and an
    odd row or column goes to the bottom or right.
    """
    video_grid(num_frames, rows, cols, window)  # refuses what is no grid
    return pool_windows(torch.arange(num_frames * rows * cols).reshape(num_frames, rows, cols), window)


def pool_windows(numbers: Tensor, window: int) -> Tensor:
    """(T, rows, cols) patch numbers to the (T * window_rows * window_cols, w * w) windows that pool them."""
    num_frames, rows, cols = numbers.shape
    pad_rows, pad_cols = -rows % window, -cols % window
    sides = (pad_cols // 2, (pad_cols + 1) // 2, pad_rows // 2, (pad_rows + 1) // 2)
    numbers = F.pad(numbers, sides, value=-1)
    numbers = numbers.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return numbers.transpose(2, 3).reshape(-1, window * window)


def video_grid(num_frames: int, rows: int, cols: int, window: int) -> VideoGrid:
    """The grid of windows over `num_frames` frames of rows x cols patches; a window cut by the border counts.

    Raises ValueError for a number below 1.
    """
    if min(num_frames, rows, cols, window) < 1:
        raise ValueError(f"frames, rows, cols and window must be at least 1, got {num_frames, rows, cols, window}")
    return VideoGrid(num_frames, -(-rows // window), -(-cols // window))
