import math

import pytest
import torch
import torch.nn.functional as F

from stts_lightning.prune.bias import append_key_bias, expand_to_patches, paper_bias, released_bias
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
    assert bias.shape == (5, 72)
    torch.testing.assert_close(bias, expected.flatten(1))


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
    torch.testing.assert_close(ours, expected.flatten(1))
    assert float(ours.min()) == -2 and float(ours.max()) <= 0


def test_a_constant_row_gets_minus_two_in_the_released_bias():
    s = torch.full((5, ROWS * COLUMNS), 0.7, requires_grad=True)
    bias = released_bias(s, is_first_frame(FRAMES, s.device), make_windows())
    assert torch.allclose(bias[[1, 2, 4]], torch.tensor(-2.0)) and bool((bias[[0, 3]] == 0).all())
    bias.sum().backward()
    assert bool(s.grad.isfinite().all())


@pytest.mark.parametrize("dim", [16, 72])
def test_an_appended_bias_is_an_added_one(dim):
    generator = torch.Generator().manual_seed(5)
    query, key, value = (torch.randn(3, 2, 9, dim, generator=generator, requires_grad=True) for _ in range(3))
    bias = (torch.rand(3, 9, generator=generator) * -12).requires_grad_()
    scale, leaves = dim**-0.5, [query, key, value, bias]
    added = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[:, None, None, :], scale=scale)
    wide = append_key_bias(query, key, value, bias, scale)
    assert all(x.shape[-1] % 8 == 0 and x.shape[-1] <= dim + 8 for x in wide)
    appended = F.scaled_dot_product_attention(*wide, scale=scale)
    assert not appended[..., dim:].any()
    torch.testing.assert_close(appended[..., :dim], added)
    weights = torch.randn(added.shape, generator=generator)
    ours = torch.autograd.grad((appended[..., :dim] * weights).sum(), leaves)
    for mine, theirs in zip(ours, torch.autograd.grad((added * weights).sum(), leaves), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
