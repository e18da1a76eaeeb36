"""The listwise loss against loops, and the identity that teaches it.

`learn_from_use` has no gradcheck: what its backward pass answers is the gradient of a loss whose target comes out of
that same pass, and so not the derivative of what its forward pass returns, which is 0. Its reference is two passes.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stts_lightning.prune.listwise import learn_from_use, listwise_loss
from stts_lightning.prune.select import select
from stts_lightning.prune.types import Windows

WINDOWS = 4  # of a frame
DIM = 5


def slow_loss(logits, use, counted, lengths):
    """Value, and gradient of the logits, window by window in float64."""
    value, gradient, start = 0.0, [0.0] * sum(lengths), 0
    for length in lengths:
        inside = [m for m in range(start, start + length) if counted[m]]
        total = sum(float(use[m]) for m in inside)
        if total > 0:
            highest = max(float(logits[m]) for m in inside)
            norm = sum(math.exp(float(logits[m]) - highest) for m in inside)
            for m in inside:
                share = float(use[m]) / total
                predicted = math.exp(float(logits[m]) - highest) / norm
                value -= share * math.log(predicted) / len(lengths)
                gradient[m] = (predicted - share) / len(lengths)
        start += length
    return value, torch.tensor(gradient)


def make(frames, seed=0, percent=50.0, scale=1.0):
    """Tokens and logits of a batch of videos, and what was kept of them."""
    generator = torch.Generator().manual_seed(seed)
    windows = Windows(torch.zeros(sum(frames) * WINDOWS, 1), list(frames), WINDOWS, 2, 2, percent)
    logits = (scale * torch.randn(sum(frames), WINDOWS, generator=generator)).requires_grad_()
    selection = select(logits.detach(), windows.frames_per_video, percent)
    tokens = torch.randn(len(selection.kept_K), DIM, generator=generator).requires_grad_()
    gradient = torch.randn(tokens.shape, generator=generator)
    return tokens, logits, selection, windows, gradient


def learn(tokens, logits, selection, windows, gradient, scale=1.0):
    """The gradients of tokens and logits where the task sends ``gradient`` to the tokens; and the loss's value."""
    passed, listwise = learn_from_use(tokens, logits, selection, windows)
    assert torch.equal(passed, tokens) and float(listwise.loss.detach()) == 0 and float(listwise.value) == 0
    task = (passed * gradient).sum()
    found = torch.autograd.grad(scale * (task + listwise.loss), [tokens, logits])
    return *found, listwise.value


def slow_learn(tokens, logits, selection, windows, gradient):
    """The logits' gradient and the value, by `slow_loss` on what the two norms make."""
    use = [math.hypot(*g) * math.hypot(*f) for g, f in zip(gradient.tolist(), tokens.tolist(), strict=True)]
    first = [t == 0 for frames in windows.frames_per_video for t in range(frames)]
    counted = [not first[m // WINDOWS] for m in selection.kept_K.tolist()]
    value, kept = slow_loss(logits.detach().flatten()[selection.kept_K], use, counted, selection.kept_per_video)
    expected = torch.zeros(logits.numel())
    expected[selection.kept_K] = kept
    return expected.view_as(logits), value


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    seed=st.integers(0, 10**6),
    spread=st.sampled_from([0.1, 3.0, 40.0]),
    without=st.sampled_from(["nothing", "uses", "windows"]),
)
def test_loss_and_its_gradient_equal_a_loop(lengths, seed, spread, without):
    generator = torch.Generator().manual_seed(seed)
    count = sum(lengths)
    logits = (spread * torch.randn(count, generator=generator)).requires_grad_()
    use = torch.rand(count, generator=generator)
    counted = torch.rand(count, generator=generator) > 0.3
    if without == "uses":
        use[: lengths[0]] = 0
    if without == "windows":
        counted[-lengths[-1] :] = False
    loss = listwise_loss(logits, use, counted, lengths)
    (gradient,) = torch.autograd.grad(loss, logits)
    value, expected = slow_loss(logits.detach(), use, counted, lengths)
    assert float(loss.detach()) == pytest.approx(value, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_loss_is_at_its_lowest_where_the_logits_tell_the_use():
    use, counted = torch.tensor([1.0, 2.0, 5.0, 4.0, 4.0]), torch.ones(5, dtype=torch.bool)
    logits = use.log().requires_grad_()
    loss = listwise_loss(logits, use, counted, [3, 2])
    entropy = -sum(p * math.log(p) for p in (1 / 8, 2 / 8, 5 / 8)) / 2 + math.log(2) / 2
    assert float(loss.detach()) == pytest.approx(entropy)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.zeros(5), rtol=0, atol=1e-7)


@given(
    frames=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=st.integers(0, 10**6),
    spread=st.sampled_from([0.1, 3.0, 40.0]),
)
def test_one_pass_learns_what_a_loop_says(frames, seed, spread):
    made = make(frames, seed, scale=spread)
    _, gradient, value = learn(*made)
    expected, slow_value = slow_learn(*made)
    assert float(value) == pytest.approx(slow_value, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_use_is_the_product_of_both_norms():
    """Two windows of frame 1: one with a long token, one with a long gradient, which are used alike."""
    windows = Windows(torch.zeros(8, 1), [2], WINDOWS, 2, 2, 0.0)
    logits = torch.zeros(2, WINDOWS, requires_grad=True)
    selection = select(logits.detach(), [2], 0)
    tokens, gradient = torch.zeros(8, DIM), torch.zeros(8, DIM)
    tokens[4:6, 0], gradient[4:6, 1] = torch.tensor([6.0, 2.0]), torch.tensor([1.0, 3.0])
    tokens[:4], gradient[:4] = 100.0, 100.0  # frame 0 belongs to no list
    _, found, value = learn(tokens.requires_grad_(), logits, selection, windows, gradient)
    expected = torch.tensor([[0.0] * 4, [-0.25, -0.25, 0.25, 0.25]])
    torch.testing.assert_close(found, expected)
    assert float(value) == pytest.approx(math.log(4))


def test_tokens_and_their_own_gradient_stay_as_they_are_to_the_bit():
    tokens, logits, selection, windows, gradient = make([3, 4])
    found, _, _ = learn(tokens, logits, selection, windows, gradient)  # which compares the tokens
    assert torch.equal(found, gradient)


@pytest.mark.parametrize("scale", [2.0**10, 2.0**-10])
def test_the_scale_of_the_loss_is_that_of_the_gradients_and_not_of_the_targets(scale):
    made = make([3, 4])
    plain, scaled = learn(*made), learn(*made, scale=scale)
    for ours, expected in zip(scaled[:2], plain[:2], strict=True):
        torch.testing.assert_close(ours / scale, expected)
    torch.testing.assert_close(scaled[2], plain[2])


def test_a_weight_of_the_listwise_loss_alone_is_that_of_its_gradient_alone():
    tokens, logits, selection, windows, gradient = make([3, 4])
    _, plain, _ = learn(tokens, logits, selection, windows, gradient)
    passed, listwise = learn_from_use(tokens, logits, selection, windows)
    task = (passed * gradient).sum() + 0.25 * listwise.loss
    of_tokens, of_logits = torch.autograd.grad(task, [tokens, logits])
    assert torch.equal(of_tokens, gradient)
    torch.testing.assert_close(of_logits, 0.25 * plain)


def test_a_loss_that_is_not_added_teaches_nothing():
    tokens, logits, selection, windows, gradient = make([3, 4])
    passed, _ = learn_from_use(tokens, logits, selection, windows)
    _, found = torch.autograd.grad((passed * gradient).sum(), [tokens, logits])
    assert not found.any()


def test_frozen_tokens_teach_as_well():
    tokens, logits, selection, windows, gradient = make([3, 4])
    _, expected, _ = learn(tokens, logits, selection, windows, gradient)
    passed, listwise = learn_from_use(tokens.detach(), logits, selection, windows)
    (found,) = torch.autograd.grad((passed * gradient).sum() + listwise.loss, [logits])
    assert torch.equal(found, expected) and bool(found.any())


@pytest.mark.parametrize("frames", [[1], [1, 1], [3, 1, 2]])
def test_videos_of_one_frame_teach_nothing(frames):
    tokens, logits, selection, windows, gradient = make(frames, percent=30)
    _, found, value = learn(tokens, logits, selection, windows, gradient)
    assert bool(found.isfinite().all()) and bool(value.isfinite())
    for frame, part in zip(frames, found.split(frames), strict=True):
        assert bool(part.any()) == (frame > 1)
    assert (float(value) > 0) == (max(frames) > 1)


@pytest.mark.parametrize("silent", ["gradient", "tokens"])
def test_a_video_without_use_teaches_nothing(silent):
    tokens, logits, selection, windows, gradient = make([3, 4])
    kept = selection.kept_per_video[0]
    if silent == "gradient":
        gradient[:kept] = 0
    else:
        tokens = torch.cat([torch.zeros_like(tokens[:kept]), tokens[kept:]]).detach().requires_grad_()
    _, found, value = learn(tokens, logits, selection, windows, gradient)
    assert bool(found.isfinite().all()) and bool(value.isfinite())
    assert not found[:3].any() and bool(found[3:].any())
    _, found, value = learn(tokens, logits, selection, windows, torch.zeros_like(gradient))
    assert not found.any() and float(value) == 0


@pytest.mark.parametrize("factor", [1e-42, 1e-30, 1e30])
def test_tiny_and_huge_gradients_leave_no_nan(factor):
    tokens, logits, selection, windows, gradient = make([3, 4])
    _, expected, _ = learn(tokens, logits, selection, windows, gradient)
    _, found, value = learn(tokens, logits, selection, windows, gradient * factor)
    assert bool(found.isfinite().all()) and bool(value.isfinite())


def test_videos_are_each_as_alone():
    frames = [3, 1, 4]
    tokens, logits, selection, windows, gradient = make(frames)
    _, together, value = learn(tokens, logits, selection, windows, gradient)
    values, kept = [], selection.kept_per_video
    parts = zip(frames, tokens.split(kept), logits.split(frames), gradient.split(kept), strict=True)
    for (count, f, z, g), found in zip(parts, together.split(frames), strict=True):
        f, z = f.detach().requires_grad_(), z.detach().requires_grad_()
        alone = Windows(windows.table_MP[: count * WINDOWS], [count], WINDOWS, 2, 2, 50.0)
        _, expected, part = learn(f, z, select(z.detach(), [count], 50.0), alone, g)
        torch.testing.assert_close(found * len(frames), expected)
        values.append(float(part))
    assert float(value) == pytest.approx(sum(values) / len(frames), rel=1e-5)


def test_bfloat16_is_worked_on_in_float32():
    made = make([3, 4])
    tokens, logits, selection, windows, gradient = made
    rounded = tokens.detach().bfloat16().requires_grad_()
    kept = learn(rounded, logits, selection, windows, gradient.bfloat16())
    exact = learn(rounded.detach().float().requires_grad_(), logits, selection, windows, gradient.bfloat16().float())
    assert kept[0].dtype == torch.bfloat16 and kept[1].dtype == kept[2].dtype == torch.float32
    torch.testing.assert_close(kept[1], exact[1])
    torch.testing.assert_close(kept[2], exact[2])
