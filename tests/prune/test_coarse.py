"""Any number of larger windows covers the frame once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stts_lightning.prune.coarse import coarse_table, coarse_windows, counts_by_frame, placeholders_left
from stts_lightning.prune.types import Windows


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_windows_cover_every_patch_once(rows, columns, data):
    count = data.draw(st.integers(1, rows * columns))
    cut = coarse_windows(rows * 3, columns * 3, count)
    assert len(cut) == count and all(cut)
    assert sorted(patch for window in cut for patch in window) == list(range(rows * columns * 9))


def test_windows_are_nearly_square_and_of_nearly_one_size():
    for count in (40, 41, 49, 16):  # of a frame of 27 x 27 patches
        cut = coarse_windows(27, 27, count)
        sizes = [len(window) for window in cut]
        assert max(sizes) <= 2 * min(sizes)
        for window in cut:
            ys, xs = {p // 27 for p in window}, {p % 27 for p in window}
            assert max(len(ys), len(xs)) <= 2 * min(len(ys), len(xs))


@given(st.integers(0, 500), st.integers(1, 64))
def test_frames_share_the_budget_evenly(budget, frames):
    counts = counts_by_frame(budget, frames)
    assert len(counts) == frames and sum(counts) == budget and max(counts) - min(counts) <= 1


def test_all_windows_are_the_stock_windows():
    table = torch.tensor([p for p in _stock_table(2)])
    windows = Windows(table, [2], 9, 3, 3, percent=0.0)
    assert torch.equal(coarse_table(windows, 81), table)
    assert placeholders_left(windows).all()


def test_the_table_holds_each_frame_s_own_patches():
    windows = Windows(torch.tensor(_stock_table(3)), [2, 1], 9, 3, 3, percent=40.0)
    table, keep = coarse_table(windows, 81), placeholders_left(windows)
    counts = keep.sum(1).tolist()
    assert sum(counts[:2]) == 11 and counts[2] == 9  # one frame alone keeps all
    for frame, rows in enumerate(table.split(counts)):
        patches = rows[rows >= 0]
        assert sorted(patches.tolist()) == list(range(frame * 81, frame * 81 + 81))


def test_overhanging_windows_are_refused():
    with pytest.raises(ValueError, match="whole windows"):
        coarse_table(Windows(torch.zeros(9, 9, dtype=torch.long), [1], 9, 3, 3), 64)


def _stock_table(frames):
    return [
        [f * 81 + (r * 3 + y) * 9 + c * 3 + x for y in range(3) for x in range(3)]
        for f in range(frames)
        for r in range(3)
        for c in range(3)
    ]
