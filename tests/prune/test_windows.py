import torch

from stts_lightning.prune.types import Windows
from stts_lightning.prune.windows import gather_windows, is_first_frame, mean_pool, previous_frame, window_of_patch

FRAMES = [3, 1, 2]


def make(build_table, side=8, dim=5, frames=FRAMES):
    """Windows of 3 x 3 over side x side patches; at side 8 the last row and column hang over."""
    across = -(-side // 3)
    windows = Windows(build_table(sum(frames), side), frames, across * across, across, across)
    return torch.randn(sum(frames), side * side, dim, generator=torch.Generator().manual_seed(1)), windows


def test_gathers_real_patches_and_zeros_the_overhang(build_table):
    x, windows = make(build_table)
    gathered, valid = gather_windows(x, windows.table_MP)
    flat = x.flatten(0, 1)
    for m, slots in enumerate(windows.table_MP.tolist()):
        for p, patch in enumerate(slots):
            assert bool(valid[m, p]) == (patch >= 0)
            assert torch.equal(gathered[m, p], flat[patch] if patch >= 0 else torch.zeros(5))


def test_windows_that_tile_need_no_mask(build_table):
    x, windows = make(build_table, side=9)
    assert windows.tile(81) and not make(build_table)[1].tile(64)
    gathered, valid = gather_windows(x, windows.table_MP, tiles=True)
    expected, all_real = gather_windows(x, windows.table_MP)
    assert valid is None and bool(all_real.all()) and torch.equal(gathered, expected)
    assert torch.equal(mean_pool(gathered, None), mean_pool(expected, all_real))


def test_mean_counts_real_patches_only(build_table):
    x, windows = make(build_table)
    pooled = mean_pool(*gather_windows(x, windows.table_MP))
    flat = x.flatten(0, 1)
    for m, slots in enumerate(windows.table_MP.tolist()):
        real = [flat[patch] for patch in slots if patch >= 0]
        torch.testing.assert_close(pooled[m], sum(real) / len(real))


def test_finds_the_window_of_every_patch(build_table):
    _, windows = make(build_table)
    owner = window_of_patch(windows, sum(FRAMES) * 64).tolist()
    rows = windows.table_MP.tolist()
    assert all(patch in rows[owner[patch]] for patch in range(sum(FRAMES) * 64))


def test_flags_the_first_frame_of_each_video():
    assert is_first_frame(FRAMES, torch.device("cpu")).tolist() == [True, False, False, True, True, False]


def test_previous_frame_is_zero_before_each_video():
    x = torch.randn(sum(FRAMES), 4, 5)
    before = previous_frame(x, is_first_frame(FRAMES, torch.device("cpu")))
    start = 0
    for frames in FRAMES:
        for i in range(frames):
            assert torch.equal(before[start + i], x[start + i - 1] if i else torch.zeros(4, 5))
        start += frames
