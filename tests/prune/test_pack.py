import math
import random
from itertools import combinations_with_replacement

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stts_lightning.prune.pack import (
    block_diagonal_mask,
    first_fit_descending,
    gather_rows,
    kept_patches,
    pack,
    repack_table,
)
from stts_lightning.prune.select import select
from stts_lightning.prune.types import Windows


@st.composite
def keep_masks(draw):
    """(T, N) masks; whole frames are often empty or full."""
    frames, patches = draw(st.integers(1, 7)), draw(st.integers(1, 8))
    row = st.one_of(
        st.just([False] * patches),
        st.just([True] * patches),
        st.lists(st.booleans(), min_size=patches, max_size=patches),
    )
    return torch.tensor(draw(st.lists(row, min_size=frames, max_size=frames)))


def algorithm_1(counts, capacity):
    """The paper's algorithm 1, lines 1-15, line by line."""
    by_count = sorted(range(len(counts)), key=lambda i: (-counts[i], i))  # descending, equals in their order
    load, assign, offset = [0] * len(counts), [0] * len(counts), [0] * len(counts)
    for i in by_count:
        count = counts[i]
        j = 0
        while load[j] + count > capacity:
            j += 1
        assign[i] = j
        offset[i] = load[j]
        load[j] = load[j] + count
    return assign, offset, sum(1 for used in load if used > 0)


def slow_attention(queries, keys):
    """Softmax attention of (n, d) queries over (m, d) keys that are their own values."""
    weights = torch.softmax(queries @ keys.T / math.sqrt(keys.shape[1]), dim=-1)
    return weights @ keys


def assert_as_algorithm_1(counts, capacity):
    ours = first_fit_descending(torch.tensor(counts, dtype=torch.long), capacity)
    assign, offset, rows = algorithm_1(counts, capacity)
    slots = [row * capacity + slot for row, slot in zip(assign, offset, strict=True)]
    # The paper gives empty frames a row, too, but nothing stands there.
    assert ours.first_slot_T.tolist() == [slot if count else -1 for slot, count in zip(slots, counts, strict=True)]
    assert ours.num_rows == rows


@pytest.mark.parametrize("capacity", [1, 2, 9, 10])
def test_assigns_few_frames_as_algorithm_1_whatever_their_sizes(capacity):
    for frames in range(7):
        for counts in combinations_with_replacement(range(capacity + 1), frames):
            assert_as_algorithm_1(counts, capacity)


@given(st.integers(1, 80), st.data())
def test_assigns_as_algorithm_1(capacity, data):
    smallest = data.draw(st.integers(0, capacity))
    sizes = range(smallest, data.draw(st.integers(smallest, capacity)) + 1)
    for frames in (1, 20, 300):  # hypothesis itself draws no list as long as is needed here
        seed = data.draw(st.integers(0, 10**6))
        assert_as_algorithm_1(random.Random(seed).choices(sizes, k=frames), capacity)


def test_assigns_few_small_frames_to_many_rows_with_room_as_algorithm_1():
    for seed in range(50):
        draw = random.Random(seed)
        small = draw.choices(range(1, 21), k=draw.randint(5, 60))
        assert_as_algorithm_1(draw.choices(range(41, 61), k=60) + small, capacity=80)


def random_counts(frames, *sizes):
    return random.Random(0).choices(range(*sizes), k=frames)


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param(random_counts(4096, 730), id="every size there is"),
        pytest.param([729, *random_counts(4095, 0, 730, 9)], id="whole windows"),
        pytest.param(random_counts(1024, 1, 91), id="many frames to a row"),
        pytest.param(random_counts(1024, 230, 381), id="two or three to a row"),
        pytest.param(random_counts(1024, 365, 730), id="one to a row"),
        pytest.param([0] * 4096, id="all empty"),
        *(pytest.param([size] * 1024, id=f"all {size}") for size in (1, 9, 243, 364, 365, 729)),
    ],
)
def test_assigns_long_videos_as_algorithm_1(counts):
    assert_as_algorithm_1(counts, 729)


@given(keep_masks())
def test_every_kept_patch_has_one_slot_and_no_slot_two(keep):
    packed = pack(keep)
    slots = packed.slot_of_patch.tolist()
    used = [slot for slot in slots if slot >= 0]
    assert len(used) == len(set(used)) == int(keep.sum())
    assert [slot >= 0 for slot in slots] == keep.flatten().tolist()
    source = packed.source_RN.flatten().tolist()
    assert all(source[slot] == patch for patch, slot in enumerate(slots) if slot >= 0)
    assert sum(patch >= 0 for patch in source) == len(used)  # nothing else stands in the rows


@given(keep_masks())
def test_a_frame_stands_whole_and_in_order_in_one_row(keep):
    packed, (frames, patches) = pack(keep), keep.shape
    slots = packed.slot_of_patch.view(frames, patches)
    for t in range(frames):
        own = slots[t][keep[t]].tolist()
        assert len({slot // patches for slot in own}) <= 1
        assert own == list(range(own[0], own[0] + len(own))) if own else True


@given(keep_masks())
def test_rows_are_no_more_than_frames_and_none_is_empty(keep):
    packed = pack(keep)
    assert packed.source_RN.shape[0] <= int(keep.any(1).sum())
    assert bool((packed.source_RN >= 0).any(1).all())


@given(keep_masks(), st.booleans())
def test_segments_name_the_source_frame(keep, refill):
    packed = pack(keep, refill)
    for row in range(packed.source_RN.shape[0]):
        for patch, segment in zip(packed.source_RN[row].tolist(), packed.segment_RN[row].tolist(), strict=True):
            assert segment == (patch // keep.shape[1] if patch >= 0 else -1)


@given(keep_masks(), st.booleans())
def test_mask_is_block_diagonal(keep, refill):
    packed = pack(keep, refill)
    mask = block_diagonal_mask(packed, torch.float32)
    rows, slots = packed.source_RN.shape
    assert mask.shape == (rows, 1, slots, slots)
    for r in range(rows):
        source = packed.source_RN[r].tolist()
        for q in range(slots):
            for k in range(slots):
                both_used = source[q] >= 0 and source[k] >= 0
                same_frame = both_used and source[q] // keep.shape[1] == source[k] // keep.shape[1]
                expected = 0.0 if same_frame or q == k else torch.finfo(torch.float32).min
                assert float(mask[r, 0, q, k]) == expected


@given(keep_masks(), st.booleans())
def test_slots_give_the_kept_features_back(keep, refill):
    frames, patches = keep.shape
    x = torch.arange(frames * patches * 2, dtype=torch.float).view(frames, patches, 2)
    packed = pack(keep, refill)
    rows = gather_rows(x, packed.source_RN).flatten(0, 1)
    slots = packed.slot_of_patch[keep.flatten()]
    assert torch.equal(rows[slots], x[keep])


@given(keep_masks())
def test_only_lone_frames_are_refilled(keep):
    frames, patches = keep.shape
    packed = pack(keep, refill_lone_frames=True)
    assign, _, _ = algorithm_1(keep.sum(1).tolist(), patches)
    standing = sorted(patch for patch in packed.source_RN.flatten().tolist() if patch >= 0)
    expected = []
    for t in range(frames):
        lone = bool(keep[t].any()) and not any(
            assign[other] == assign[t] and bool(keep[other].any()) for other in range(frames) if other != t
        )
        expected += [t * patches + n for n in range(patches) if lone or bool(keep[t, n])]
    assert standing == expected
    assert [slot >= 0 for slot in packed.slot_of_patch.tolist()] == keep.flatten().tolist()


@pytest.mark.parametrize("refill", [False, True])
@given(keep=keep_masks())
def test_packed_attention_sees_what_the_frame_alone_would(keep, refill):
    frames, patches = keep.shape
    x = torch.randn(frames, patches, 4, generator=torch.Generator().manual_seed(0))
    packed = pack(keep, refill)
    rows = gather_rows(x, packed.source_RN)
    out = torch.nn.functional.scaled_dot_product_attention(
        rows[:, None], rows[:, None], rows[:, None], attn_mask=block_diagonal_mask(packed, x.dtype)
    )[:, 0].flatten(0, 1)
    assert bool(out.isfinite().all())
    assign, _, _ = algorithm_1(keep.sum(1).tolist(), patches)
    for t in range(frames):
        if not keep[t].any():
            continue
        alone = sum(1 for other in range(frames) if keep[other].any() and assign[other] == assign[t]) == 1
        seen = x[t] if refill and alone else x[t][keep[t]]
        slots = packed.slot_of_patch.view(frames, patches)[t][keep[t]]
        torch.testing.assert_close(out[slots], slow_attention(x[t][keep[t]], seen), atol=1e-6, rtol=1e-5)


def test_nothing_kept_gives_no_row():
    packed = pack(torch.zeros(3, 4, dtype=torch.bool))
    assert packed.source_RN.shape == (0, 4) and bool((packed.slot_of_patch == -1).all())


@given(st.integers(0, 100), st.sampled_from([3, 4, 6]))
def test_kept_windows_find_their_patches_in_the_rows(build_table, percent, side):
    frames, across = [4, 2], -(-side // 3)
    table = build_table(sum(frames), side)  # at side 4, windows hang over
    windows = Windows(table, frames, across * across, across, across)
    scores = torch.rand(sum(frames), across * across, generator=torch.Generator().manual_seed(percent))
    selection = select(scores, frames, percent)
    keep = kept_patches(selection, windows, sum(frames) * side * side).view(-1, side * side)
    kept_windows = [m for m, kept in enumerate(selection.keep_TW.flatten().tolist()) if kept]
    expected = {patch for m in kept_windows for patch in table[m].tolist() if patch >= 0}
    assert set(keep.flatten().nonzero().flatten().tolist()) == expected

    packed = pack(keep)
    source = packed.source_RN.flatten().tolist()
    repacked = repack_table(table[selection.kept_K], packed).tolist()
    for m, slots in zip(kept_windows, repacked, strict=True):
        assert [source[slot] if slot >= 0 else -1 for slot in slots] == table[m].tolist()
