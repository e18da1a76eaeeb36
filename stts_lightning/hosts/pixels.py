"""From decoded frames to the tensors that other video models take; torch only.

T: frames; S: side of the decoded square; H, W: height and width in pixels; p: side of a patch; m: patches on one
side of a merged token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

QWEN_LARGEST_ASPECT = 200


class Size(NamedTuple):
    """Pixels."""

    height: int
    width: int


class Patches(NamedTuple):
    pixels: Tensor  # (patches, 3 * frames a patch * p * p) float32
    grid: Tensor  # (1, 3) int64: steps in time, rows and columns of patches


def normalised(frames: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(T, H, W, 3) uint8 -> (T, 3, H, W) float32, each colour minus its mean over its deviation, as shares of 255."""
    shape = (1, 3, 1, 1)
    pixels = frames.permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def restored_aspect(frames: Tensor, size: Size) -> Tensor:
    """(T, S, S, 3) uint8 squares -> (T, H, W, 3) uint8: bicubic, with antialias, rounded as pictures are."""
    pixels = frames.permute(0, 3, 1, 2).float()
    resized = F.interpolate(pixels, tuple(size), mode="bicubic", align_corners=False, antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def qwen_size(num_frames: int, size: Size, factor: int, per_step: int, min_pixels: int, max_pixels: int) -> Size:
    """Qwen's rule: sides that ``factor`` divides, about the same aspect, all frames together within the pixel budget.

    Args:
        size: of the frames before.
        factor: pixels on one side of a merged token.
        per_step: frames that one step in time merges.

    Raises:
        ValueError: fewer frames than one step, or a strip of more than 200 to 1.
    """
    height, width = size
    if num_frames < per_step:
        raise ValueError(f"{num_frames} frame(s) do not fill a step of {per_step}; sample more frames.")
    if min(size) < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) > QWEN_LARGEST_ASPECT * min(height, width):
        raise ValueError(f"frames of {height} x {width} are too narrow: more than {QWEN_LARGEST_ASPECT} to 1.")
    rows, cols = round(height / factor), round(width / factor)
    volume = round(num_frames / per_step) * per_step * rows * cols * factor**2
    scale = math.sqrt(num_frames * height * width / (max_pixels if volume > max_pixels else min_pixels or 1))
    if volume > max_pixels:
        rows, cols = (max(1, math.floor(side / scale / factor)) for side in (height, width))
    elif volume < min_pixels:
        rows, cols = (math.ceil(side / scale / factor) for side in (height, width))
    return Size(rows * factor, cols * factor)


def qwen_patches(pixels: Tensor, patch: int, merge: int, per_step: int) -> Patches:
    """(T, 3, H, W) float32 -> patches in Qwen's order: step, then blocks of m x m patches that become one token.

    The last frame is repeated until the steps are full.
    """
    missing = -len(pixels) % per_step
    pixels = torch.cat([pixels, pixels[-1:].expand(missing, -1, -1, -1)])
    steps, rows, cols = len(pixels) // per_step, pixels.shape[2] // patch, pixels.shape[3] // patch
    split = pixels.view(steps, per_step, 3, rows // merge, merge, patch, cols // merge, merge, patch)
    # -> step, row and column of the token, row and column of the patch in it, colour, frame, row, column
    ordered = split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    flat = ordered.reshape(steps * rows * cols, 3 * per_step * patch * patch)
    return Patches(flat, torch.tensor([[steps, rows, cols]]))
