import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stts_lightning.video.patches import frames_to_patches, resize_frames, video_grid, window_table

port = pytest.importorskip("transformers.models.molmo2.video_processing_molmo2")


def random_frames(count: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("count, side, patch", [(1, 14, 14), (3, 42, 14), (2, 378, 14), (4, 24, 4)])
def test_patches_equal_the_port(count, side, patch):
    frames = random_frames(count, side, side)
    patches = frames_to_patches(frames, patch)
    assert patches.shape == (count, (side // patch) ** 2, patch * patch * 3) and patches.dtype == torch.float32
    expected = port.batch_pixels_to_patches((frames.float() - 127.5) / 127.5, patch)
    assert torch.equal(patches, expected)
    assert torch.allclose(patches, port.batch_pixels_to_patches((frames.float() / 255 - 0.5) / 0.5, patch), atol=1e-6)


def test_patches_span_minus_one_to_one():
    patches = frames_to_patches(torch.tensor([0, 255], dtype=torch.uint8).repeat(294).reshape(1, 14, 14, 3), 14)
    assert patches.min() == -1 and patches.max() == 1


def test_patches_leave_the_frames_alone():
    frames = random_frames(1, 28, 28)
    before = frames.clone()
    frames_to_patches(frames, 14)
    assert torch.equal(frames, before)


@pytest.mark.parametrize("frames, patch", [(torch.zeros(1, 28, 28, 3), 14), (random_frames(1, 30, 28), 14)])
def test_wrong_frames_are_refused(frames, patch):
    with pytest.raises(ValueError, match="frames"):
        frames_to_patches(frames, patch)


def port_table(num_frames, rows, cols, window):
    """The port's pooling indices of one video, put together as its processor does."""
    grid = torch.arange(rows * cols, dtype=torch.int32).reshape(rows, cols)
    table, window_rows, window_cols = port.arange_for_pooling(grid, window, window)
    offsets = (torch.arange(num_frames) * rows * cols).view(-1, 1, 1)
    return torch.where(table >= 0, table + offsets, table).reshape(-1, window * window), window_rows, window_cols


@pytest.mark.parametrize(
    "num_frames, rows, cols, window",
    [(2, 27, 27, 3), (1, 3, 3, 3), (3, 28, 26, 3), (2, 5, 7, 2), (2, 4, 3, 5), (2, 2, 2, 1)],
)
def test_windows_equal_the_port(num_frames, rows, cols, window):
    table = window_table(num_frames, rows, cols, window)
    expected, window_rows, window_cols = port_table(num_frames, rows, cols, window)
    assert table.dtype == torch.int64 and torch.equal(table, expected.long())
    assert video_grid(num_frames, rows, cols, window) == (num_frames, window_rows, window_cols)


@pytest.mark.parametrize("rows, cols, window", [(27, 27, 3), (28, 26, 3), (5, 7, 2)])
def test_every_patch_stands_in_one_window(rows, cols, window):
    table = window_table(2, rows, cols, window)
    numbers = table[table >= 0]
    assert torch.equal(numbers.sort().values, torch.arange(2 * rows * cols))


def test_wrong_grid_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        window_table(2, 27, 27, 0)


def resize_slowly(frame: np.ndarray, size: int) -> np.ndarray:
    """Bilinear by its definition: pixel centres at 0.5, borders repeated, no blur before shrinking."""
    height, width = frame.shape[:2]
    out = np.empty((size, size, 3))
    for i in range(size):
        for j in range(size):
            y, x = ((max((k + 0.5) * n / size - 0.5, 0.0)) for k, n in ((i, height), (j, width)))
            top, left = int(y), int(x)
            low, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = frame[top, left] * (1 - (x - left)) + frame[top, right] * (x - left)
            lower = frame[low, left] * (1 - (x - left)) + frame[low, right] * (x - left)
            out[i, j] = upper * (1 - (y - top)) + lower * (y - top)
    return out


@pytest.mark.parametrize("height, width, size", [(40, 60, 14), (9, 7, 21)])
def test_resize_is_bilinear_without_antialias(height, width, size):
    frames = random_frames(2, height, width).numpy()
    resized = resize_frames(frames, size)
    assert resized.shape == (2, size, size, 3) and resized.dtype == np.uint8
    for frame, result in zip(frames, resized, strict=True):
        assert np.abs(resize_slowly(frame.astype(float), size) - result).max() <= 0.51


def test_resize_equals_torch_on_whole_frames_to_the_bit():
    """The arithmetic of Molmo2's own processor, on frames as the decoders hand them over."""
    frames = random_frames(3, 40, 60)
    frames.numpy().flags.writeable = False
    turned = np.rot90(frames.numpy(), axes=(1, 2))  # negative strides
    for given in (frames.numpy(), turned):
        pixels = torch.from_numpy(given.copy()).permute(0, 3, 1, 2).float()
        for size in (14, 42, 90):
            wanted = F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False, antialias=False)
            wanted = wanted.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
            np.testing.assert_array_equal(resize_frames(given, size), wanted.numpy())


def test_resize_to_the_same_size_changes_nothing():
    frames = random_frames(2, 14, 14).numpy()
    assert resize_frames(frames, 14) is frames
