"""Pictures to crops, windows and grids, with the arithmetic of transformers' Molmo2ImageProcessor, which cannot be
built without torchvision.

S: side of a crop in pixels; n: patches on one side of a crop; w: patches on one side of a window; C: crops; M: windows.
"""

from __future__ import annotations

import io
from itertools import product
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stts_lightning.config import BackboneConfig, ImageConfig
from stts_lightning.video.patches import pool_windows


class ImageError(ValueError):
    """A picture that cannot be read. The text names the file, what is wrong with it and the remedy."""

    kind = "unreadable"  # as `video.clip.VideoError` has it


class Crops(NamedTuple):
    """One picture as the model sees it.

    ``grid`` is a row of Molmo2's `image_grids`: rows and columns of windows of the whole picture, then of the tiling.
    """

    pixels: np.ndarray  # (C, S, S, 3) uint8: the whole picture, then the tiles row by row
    table_MP: Tensor  # (M, w * w) numbers of the patches each window pools, counted through all crops; -1 for none
    grid: tuple[int, int, int, int]


class Tiling(NamedTuple):
    """Rows and columns of tiles, and the canvas that they cover."""

    rows: int
    cols: int
    height_px: int
    width_px: int


def read_image(path: str | Path, encoded: bytes | None = None) -> np.ndarray:
    """(H, W, 3) uint8, turned as the file's EXIF says.

    Args:
        encoded: the file's content where there is no file; ``path`` then is its name in messages.

    Raises:
        ImageError: missing, empty, cut short or no picture.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path if encoded is None else io.BytesIO(encoded)) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file. Check the path, and that the disk is mounted.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # as PIL's readers raise them
        raise ImageError(f"{path}: {error}. Fetch the picture again, or save it anew as PNG or JPEG.") from None


def crop_image(image: np.ndarray, backbone: BackboneConfig, settings: ImageConfig) -> Crops:
    """Cut an (H, W, 3) uint8 picture.

    Raises:
        ValueError: margins that leave a crop nothing of its own.
    """
    size, patch = backbone.image_size, backbone.patch_size
    side, own = size // patch, own_patches(backbone, settings)
    tiling = choose_tiling(image.shape[0], image.shape[1], backbone, settings)
    canvas = _resize(image, tiling.height_px, tiling.width_px)
    starts = product(range(0, tiling.rows * own, own), range(0, tiling.cols * own, own))
    tiles = [canvas[y * patch : y * patch + size, x * patch : x * patch + size] for y, x in starts]

    whole_table = pool_windows(torch.arange(side * side).view(1, side, side), settings.window)
    numbers_RC = tile_patches(tiling, side, settings.overlap_margins) + side * side
    table_MP = torch.cat([whole_table, pool_windows(numbers_RC[None], settings.window)])
    rows, cols = numbers_RC.shape
    whole, window = -(-side // settings.window), settings.window
    grid = (whole, whole, -(-rows // window), -(-cols // window))
    return Crops(np.stack([_resize(image, size, size), *tiles]), table_MP, grid)


def own_patches(backbone: BackboneConfig, settings: ImageConfig) -> int:
    """Patches on one side of a crop without its margins: the step from tile to tile."""
    side = backbone.image_size // backbone.patch_size
    own = side - sum(settings.overlap_margins)
    if own < 1:
        raise ValueError(
            f"image.overlap_margins={settings.overlap_margins} leave nothing of a crop of {side} patches a side. "
            "Lower them."
        )
    return own


def choose_tiling(height: int, width: int, backbone: BackboneConfig, settings: ImageConfig) -> Tiling:
    """The tiling that enlarges the picture least, or where all of them shrink it, the one that shrinks it least.

    Of equals the one with fewer tiles is taken. Margins come on top once, at the canvas's edges, and the picture is
    measured without them.
    """
    step_px = own_patches(backbone, settings) * backbone.patch_size
    margin_px = sum(settings.overlap_margins) * backbone.patch_size
    sides = range(1, settings.max_crops + 1)
    tilings = sorted(((r, c) for r, c in product(sides, sides) if r * c <= settings.max_crops), key=prod)
    inner_px = np.array([height - margin_px, width - margin_px])
    with np.errstate(divide="ignore"):
        scales = (np.array(tilings) * step_px / inner_px).min(axis=1)
    best = scales.argmax() if (scales < 1).all() else np.where(scales < 1, np.inf, scales).argmin()
    rows, cols = tilings[best]
    return Tiling(rows, cols, rows * step_px + margin_px, cols * step_px + margin_px)


def tile_patches(tiling: Tiling, side: int, margins: list[int]) -> Tensor:
    """(rows, cols) numbers of the canvas's patches, counted through the tiles; where tiles overlap, the one whose own
    part is there, and at the canvas's edges the one at the edge."""
    row_tile, row = _along(tiling.rows, side, margins)
    col_tile, col = _along(tiling.cols, side, margins)
    tile = row_tile[:, None] * tiling.cols + col_tile
    return tile * side * side + row[:, None] * side + col


def _along(tiles: int, side: int, margins: list[int]) -> tuple[Tensor, Tensor]:
    """For each patch along one edge of the canvas: which tile it is taken from, and its place there."""
    before, after = margins
    places = [
        (tile, place)
        for tile in range(tiles)
        for place in range(before if tile > 0 else 0, side - after if tile < tiles - 1 else side)
    ]
    return torch.tensor(places).unbind(1)  # type: ignore[return-value]


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear without antialias, in float and back to bytes."""
    pixels = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    resized = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False, antialias=False)
    return resized.round_().clamp_(0, 255).byte()[0].permute(1, 2, 0).numpy()


def join_tables(tables: list[Tensor], patches_by_part: list[int]) -> Tensor:
    """Window tables of pictures that follow each other, counted through all of them."""
    shifted, before = [], 0
    for table_MP, patches in zip(tables, patches_by_part, strict=True):
        shifted.append(torch.where(table_MP >= 0, table_MP + before, table_MP))
        before += patches
    return torch.cat(shifted)
