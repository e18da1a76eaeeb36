from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor, smart_resize

from stts_lightning.hosts.pixels import Size, normalised, qwen_patches, qwen_size, restored_aspect


@given(st.integers(2, 64), st.integers(8, 900), st.integers(8, 900), st.sampled_from([20_000, 25_165_824]))
def test_size_is_the_one_that_transformers_takes(frames: int, height: int, width: int, most: int) -> None:
    wanted = smart_resize(frames, height, width, temporal_factor=2, factor=32, min_pixels=4096, max_pixels=most)
    assert qwen_size(frames, Size(height, width), 32, 2, 4096, most) == wanted


def test_strips_and_single_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="too narrow"):
        qwen_size(4, Size(32, 32 * 201), 32, 2, 4096, 10**9)
    with pytest.raises(ValueError, match="1 frame"):
        qwen_size(1, Size(64, 64), 32, 2, 4096, 10**9)


@pytest.mark.parametrize("frames", [2, 5])
def test_patches_are_those_of_the_video_processor(frames: int) -> None:
    pixels = torch.randn(frames, 3, 32, 48)
    patches = qwen_patches(pixels, patch=4, merge=2, per_step=2)
    wanted, *grid = Qwen3VLVideoProcessor.patchify(None, pixels[None], 4, 2, 2)
    assert torch.equal(patches.pixels, wanted[0]) and patches.grid.tolist() == [grid]


def test_aspect_comes_back_and_flat_colours_stay() -> None:
    """A picture of four flat quarters, squeezed into a square and stretched again, against repeated pixels."""
    quarters = np.array([[10, 200], [90, 30]], dtype=np.uint8)
    square = torch.from_numpy(quarters.repeat(24, 0).repeat(24, 1))[None, ..., None].expand(-1, -1, -1, 3)
    wide = restored_aspect(square, Size(24, 48))
    assert wide.shape == (1, 24, 48, 3) and wide.dtype == torch.uint8
    inside = [wide[0, y, x, 0].item() for y in (5, 18) for x in (10, 38)]
    assert inside == quarters.reshape(-1).tolist()


def test_colours_are_normalised_each_by_its_own() -> None:
    frames = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.25, 0.125]
    out = normalised(frames, mean, std)
    for colour in range(3):
        wanted = (frames[..., colour].double() / 255 - mean[colour]) / std[colour]
        assert torch.allclose(out[:, colour].double(), wanted, atol=1e-6)
