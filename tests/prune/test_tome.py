"""Merging by loops, one proposal at a time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stts_lightning.prune.tome import Merged, merge, merges_by_block


def slow_merge(x, size, window, metric, count):
    """One frame: lists in, lists out."""
    unit = [m / m.norm() for m in metric]
    proposals = []
    for a in range(0, len(x), 2):
        best = max(range(1, len(x), 2), key=lambda b: (float(unit[a] @ unit[b]), -b))
        proposals.append((-float(unit[a] @ unit[best]), a, best))
    leaving = {a: b for _, a, b in sorted(proposals)[:count]}
    out = []
    for i in range(len(x)):
        if i in leaving:
            continue
        members = [i] + [a for a, b in leaving.items() if b == i]
        total = sum(size[m] for m in members)
        out.append((sum(x[m] * size[m] for m in members) / total, total, window[i]))
    return [torch.stack([o[0] for o in out]), torch.stack([o[1] for o in out]), torch.stack([o[2] for o in out])]


@given(st.integers(2, 13), st.integers(0, 5), st.integers(0, 50))
def test_merge_is_the_slow_merge(num_windows, count, seed):
    count = min(count, num_windows // 2)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, num_windows, 4, 5, generator=generator)
    size = torch.randint(1, 5, (3, num_windows), generator=generator).float()
    window = torch.arange(num_windows).expand(3, -1) * 2
    metric = torch.randn(3, num_windows, 6, generator=generator)
    merged = merge(Merged(x, size, window), metric, count)
    for frame in range(3):
        slow = slow_merge(x[frame], size[frame], window[frame], metric[frame], count)
        for ours, expected in zip(merged, slow, strict=True):
            torch.testing.assert_close(ours[frame], expected)


def test_sizes_add_up_and_the_weighted_sum_stays():
    x = torch.randn(2, 8, 1, 3, generator=torch.Generator().manual_seed(0))
    state = Merged(x, torch.ones(2, 8), torch.arange(8).expand(2, -1))
    for count in (3, 2, 1):
        state = merge(state, state.x_TWPD.mean(2), count)
    assert state.x_TWPD.shape == (2, 2, 1, 3) and state.size_TW.sum(1).tolist() == [8, 8]
    torch.testing.assert_close((state.x_TWPD * state.size_TW[..., None, None]).sum(1), x.sum(1))


def test_more_than_half_at_once_is_a_mistake():
    state = Merged(torch.zeros(1, 4, 1, 2), torch.ones(1, 4), torch.arange(4)[None])
    with pytest.raises(AssertionError, match="3 of 4"):
        merge(state, torch.ones(1, 4, 2), 3)


@given(st.integers(1, 81), st.integers(1, 81), st.integers(1, 25))
def test_the_plan_arrives_and_is_even_where_it_can_be(num_windows, left, blocks):
    left = min(left, num_windows)
    counts = merges_by_block(num_windows, left, blocks)
    assert sum(counts) == num_windows - left and len(counts) >= blocks
    present = num_windows
    for count in counts:
        assert 0 <= count <= present // 2
        present -= count
    if (num_windows - left) // blocks + 1 <= left // 2:
        assert len(counts) == blocks and max(counts) - min(counts) <= 1
