"""Pictures to crops, against transformers' own processor and against the picture itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from port_images import grid_and_crops, preprocess
from transformers.models.molmo2.image_processing_molmo2 import compute_crop_geometry

from stts_lightning.config import BackboneConfig, ImageConfig, load_config
from stts_lightning.data.images import (
    ImageError,
    choose_tiling,
    crop_image,
    join_tables,
    read_image,
    tile_patches,
)
from stts_lightning.video.patches import frames_to_patches

MOLMO2 = BackboneConfig(image_size=378, patch_size=14), ImageConfig()
TINY = BackboneConfig(image_size=48, patch_size=4), ImageConfig(max_crops=4, overlap_margins=[2, 2], window=3)
UNEVEN = BackboneConfig(image_size=40, patch_size=4), ImageConfig(max_crops=6, overlap_margins=[1, 2], window=2)
BARE = BackboneConfig(image_size=24, patch_size=4), ImageConfig(max_crops=5, overlap_margins=[0, 0], window=4)
SHAPES = [(96, 96), (50, 200), (200, 50), (7, 9), (131, 77), (48, 48), (300, 301)]


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_molmo2_s_numbers_are_the_defaults() -> None:
    from transformers.models.molmo2.image_processing_molmo2 import Molmo2ImageProcessor as Port

    image, backbone = ImageConfig(), load_config(["backbone=molmo2_4b"]).backbone
    assert (image.max_crops, image.overlap_margins) == (Port.max_crops, Port.overlap_margins)
    assert [image.window] * 2 == Port.pooling_size
    assert (backbone.image_size, backbone.patch_size) == (Port.size["height"], Port.patch_size)


@pytest.mark.parametrize("backbone, image", [MOLMO2, TINY, UNEVEN, BARE])
@pytest.mark.parametrize("seed", range(3))
def test_tilings_are_transformers_own(backbone: BackboneConfig, image: ImageConfig, seed: int) -> None:
    step = backbone.image_size // 3
    sizes = np.random.default_rng(seed).integers(1, 5 * backbone.image_size, (300, 2)).tolist()
    sizes += [[a * step, b * step] for a in range(1, 9) for b in range(1, 9)]  # where scales tie
    sizes += [[sum(image.overlap_margins) * backbone.patch_size] * 2]  # nothing left but margins
    for height, width in sizes:
        expected = compute_crop_geometry(
            height, width, image.max_crops, image.overlap_margins, backbone.image_size, backbone.patch_size
        )
        assert tuple(choose_tiling(height, width, backbone, image)) == expected, (height, width)


@pytest.mark.parametrize("backbone, image", [TINY, UNEVEN, BARE])
def test_pictures_become_what_transformers_processor_makes(backbone: BackboneConfig, image: ImageConfig) -> None:
    pictures = [picture(*shape) for shape in SHAPES]
    expected = preprocess([torch.from_numpy(p) for p in pictures], backbone, image)
    crops = [crop_image(p, backbone, image) for p in pictures]
    patches = (backbone.image_size // backbone.patch_size) ** 2
    pixels = torch.from_numpy(np.concatenate([c.pixels for c in crops]))
    assert torch.equal(frames_to_patches(pixels, backbone.patch_size), expected["pixel_values"])
    table = join_tables([c.table_MP for c in crops], [len(c.pixels) * patches for c in crops])
    assert torch.equal(table, expected["image_token_pooling"])
    assert [list(c.grid) for c in crops] == expected["image_grids"].tolist()
    assert [len(c.pixels) for c in crops] == expected["image_num_crops"].tolist()


def test_one_picture_at_molmo2_s_own_size() -> None:
    shape = (500, 900)
    crops = crop_image(picture(*shape), *MOLMO2)
    expected = preprocess([torch.from_numpy(picture(*shape))], *MOLMO2)
    assert torch.equal(frames_to_patches(torch.from_numpy(crops.pixels), 14), expected["pixel_values"])
    assert torch.equal(crops.table_MP, expected["image_token_pooling"])


@pytest.mark.parametrize("shape", SHAPES)
def test_grid_is_what_the_port_announces_and_has_a_window_a_token(shape: tuple[int, int]) -> None:
    for backbone, image in (MOLMO2, TINY, UNEVEN):
        crops = crop_image(picture(*shape), backbone, image)
        assert (list(crops.grid), len(crops.pixels)) == grid_and_crops(*shape, backbone, image)
        low_rows, low_cols, rows, cols = crops.grid
        assert len(crops.table_MP) == low_rows * low_cols + rows * cols


@pytest.mark.parametrize("backbone, image", [TINY, UNEVEN, BARE])
def test_tiles_put_together_are_the_canvas(backbone: BackboneConfig, image: ImageConfig) -> None:
    """Every patch of the canvas once, with the pixels that stand there: read off a picture that is its own canvas."""
    patch, side = backbone.patch_size, backbone.image_size // backbone.patch_size
    tiling = choose_tiling(131, 200, backbone, image)
    assert tiling.rows > 1 or tiling.cols > 1
    whole = picture(tiling.height_px, tiling.width_px)
    crops = crop_image(whole, backbone, image)
    assert len(crops.pixels) == 1 + tiling.rows * tiling.cols  # the canvas is tiled as the picture was
    numbers = tile_patches(tiling, side, image.overlap_margins)
    tiles = crops.pixels[1:]
    for row in range(numbers.shape[0]):
        for col in range(numbers.shape[1]):
            tile, place = divmod(int(numbers[row, col]), side * side)
            y, x = place // side * patch, place % side * patch
            here = whole[row * patch : (row + 1) * patch, col * patch : (col + 1) * patch]
            assert np.array_equal(tiles[tile, y : y + patch, x : x + patch], here)


def test_margins_must_leave_something() -> None:
    with pytest.raises(ValueError, match=r"overlap_margins=\[6, 6\] leave nothing of a crop of 12 patches"):
        crop_image(picture(50, 50), TINY[0], ImageConfig(overlap_margins=[6, 6]))
    with pytest.raises(ValueError, match="two numbers"):
        ImageConfig(overlap_margins=[4])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_every_kind_of_picture_is_read_as_rgb(tmp_path: Path, mode: str) -> None:
    source = Image.fromarray(picture(10, 20)).convert(mode)
    source.save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read.shape == (10, 20, 3) and read.dtype == np.uint8
    assert np.array_equal(read, np.asarray(source.convert("RGB")))


def test_camera_s_turn_is_undone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    Image.fromarray(picture(10, 20)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(picture(10, 20), -1))


def test_bad_pictures_are_named(tmp_path: Path) -> None:
    Image.fromarray(picture(90, 90)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:5000])
    (tmp_path / "page.png").write_text("<html>not found</html>")
    for name in ("cut.png", "page.png", "gone.png"):
        with pytest.raises(ImageError, match=name):
            read_image(tmp_path / name)
