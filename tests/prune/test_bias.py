import math

import torch
import torch.nn.functional as F

from stts_lightning.prune.bias import expand_to_patches, paper_bias, released_bias
from stts_lightning.prune.types import Windows
from stts_lightning.prune.windows import is_first_frame, window_of_patch

ROWS, COLUMNS, SIDE = 2, 4, 3
FRAMES = [3, 2]


def make_windows():
    """Frames of 6 x 12 patches: more columns than rows, so that rescaling the wrong axis shows."""
    numbers = torch.arange(sum(FRAMES) * ROWS * SIDE * COLUMNS * SIDE)
    numbers = numbers.view(sum(FRAMES), ROWS, SIDE, COLUMNS, SIDE).transpose(2, 3)
    return Windows(numbers.reshape(-1, SIDE * SIDE), FRAMES, ROWS * COLUMNS, ROWS, COLUMNS)


def expand(bias_TW, windows):
    num_patches = ROWS * COLUMNS * SIDE * SIDE
    owner = window_of_patch(windows, sum(FRAMES) * num_patches)
    return expand_to_patches(bias_TW, owner, num_patches)


def upsample(scores_TW):
    return F.interpolate(scores_TW.view(-1, 1, ROWS, COLUMNS), scale_factor=SIDE, mode="nearest")[:, 0]


def scores():
    return torch.rand(sum(FRAMES), ROWS * COLUMNS, generator=torch.Generator().manual_seed(3))


def test_paper_bias_is_the_log_score_of_the_patch_s_window():
    s, windows = scores(), make_windows()
    bias = expand(paper_bias(s.log(), is_first_frame(FRAMES, s.device)), windows)
    expected = upsample(s).log()
    expected[[0, 3]] = 0  # the first frame of each video gets no bias
    assert bias.shape == (5, 1, 1, 72)
    torch.testing.assert_close(bias[:, 0, 0], expected.flatten(1))


def test_released_bias_rescales_each_row_of_patches():
    s, windows = scores(), make_windows()
    ours = expand(released_bias(s, is_first_frame(FRAMES, s.device), windows), windows)
    patches = upsample(s)
    expected = torch.zeros_like(patches)
    floor = math.exp(-2)
    for t in range(len(patches)):
        for row in range(patches.shape[1]):
            line = patches[t, row]
            scaled = floor + (line - line.min()) * (1 - floor) / (line.max() - line.min() + 1e-6)
            expected[t, row] = torch.log(scaled)
    expected[[0, 3]] = 0
    torch.testing.assert_close(ours[:, 0, 0], expected.flatten(1))
    assert float(ours.min()) == -2 and float(ours.max()) <= 0


def test_a_constant_row_gets_minus_two_in_the_released_bias():
    s = torch.full((5, ROWS * COLUMNS), 0.7, requires_grad=True)
    bias = released_bias(s, is_first_frame(FRAMES, s.device), make_windows())
    assert torch.allclose(bias[[1, 2, 4]], torch.tensor(-2.0)) and bool((bias[[0, 3]] == 0).all())
    bias.sum().backward()
    assert bool(s.grad.isfinite().all())
