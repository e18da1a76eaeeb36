"""The packer's choice against every subset there is, and its buffer."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stts_lightning.data.packing import BLOCKS, FRAME_VALUE, Packer, Size, choose

SIZES = st.lists(st.builds(Size, st.integers(1, 60), st.integers(0, 9)), min_size=1, max_size=9)


def value(sizes):
    return sum(size.tokens + FRAME_VALUE * size.frames for size in sizes)


@given(SIZES, st.integers(20, 100), st.integers(1, 12))
def test_chosen_set_is_the_best_of_all_subsets(sizes, max_tokens, max_frames):
    chosen = choose(sizes, max_tokens, max_frames)
    assert chosen == sorted(set(chosen))
    taken = [sizes[i] for i in chosen]
    assert sum(s.tokens for s in taken) <= max_tokens and sum(s.frames for s in taken) <= max_frames
    subsets = itertools.chain.from_iterable(itertools.combinations(sizes, n) for n in range(len(sizes) + 1))
    fitting = [
        value(subset)
        for subset in subsets
        if sum(s.tokens for s in subset) <= max_tokens and sum(s.frames for s in subset) <= max_frames
    ]
    assert value(taken) == max(fitting)


def test_tokens_are_counted_in_blocks_as_molmo2_counts_them():
    """At 16,384 tokens a block is 32: two samples of 8,193 tokens take 514 of 512 blocks, two of 8,192 just fit."""
    assert len(choose([Size(8192, 1)] * 2, 16384, 128)) == 2
    assert len(choose([Size(8193, 1)] * 2, 16384, 128)) == 1
    assert len(choose([Size(33, 0)] * BLOCKS, 16384, 128)) == BLOCKS // 2


def test_two_full_videos_fit_by_default_and_one_where_frames_are_capped():
    videos = [Size(64 * 81 + 603, 64)] * 3
    assert len(choose(videos, 16384, 128)) == 2 and len(choose(videos, 16384, 64)) == 1


def test_nothing_leaves_before_the_buffer_is_full_and_nothing_is_lost():
    packer: Packer[int] = Packer(max_tokens=100, max_frames=10, buffer=4)
    assert [packer.offer(i, Size(40, 1)) for i in range(4)] == [None] * 4
    assert packer.offer(4, Size(90, 9)) == [2, 3] or len(packer.waiting) == 3
    seen = [sample for sample, _ in packer.waiting]
    assert 4 in seen and len(packer.waiting) == 3  # the new one was not eligible
    while packer.waiting:
        seen_now = packer.pack()
        assert seen_now and not set(seen_now) - set(seen)
        seen = [s for s in seen if s not in seen_now]
    assert seen == []


def test_a_sample_that_fits_no_sequence_is_named():
    packer: Packer[int] = Packer(max_tokens=100, max_frames=10)
    with pytest.raises(ValueError, match="101 tokens and 2 frames fits no sequence.*max_tokens=100"):
        packer.offer(0, Size(101, 2))
    with pytest.raises(ValueError, match="11 frames"):
        packer.offer(0, Size(5, 11))
    assert packer.waiting == []
