import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stts_lightning.prune import budget
from stts_lightning.prune.budget import prune_count
from stts_lightning.prune.select import select

tenths = st.integers(0, 999)  # of a percent, so that the reference needs no floating point
# Few distinct values, so that ties are common.
score = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0])


@st.composite
def batches(draw, values=score):
    """Scores of one to three videos, as nested lists [video][frame][window]."""
    windows = draw(st.integers(1, 6))
    frames = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    frame = st.lists(values, min_size=windows, max_size=windows)
    return [draw(st.lists(frame, min_size=count, max_size=count)) for count in frames]


def run(videos, percent):
    scores = torch.tensor([frame for video in videos for frame in video])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return select(scores, [len(video) for video in videos], percent)


def plain_keep(video, tenths_of_percent):
    """Sort the windows after frame 0 by score, then place; the first so many leave."""
    frames, windows = len(video), len(video[0])
    count = tenths_of_percent * frames * windows // 1000
    order = sorted((video[t][w], t, w) for t in range(1, frames) for w in range(windows))
    leaving = {(t, w) for _, t, w in order[:count]}
    return [[(t, w) not in leaving for w in range(windows)] for t in range(frames)]


@given(tenths, st.integers(1, 300), st.integers(1, 200))
def test_counts_are_exact_floors(tenths_of_percent, frames, windows):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        count = prune_count(tenths_of_percent / 10, frames, windows)
    assert count == min(tenths_of_percent * frames * windows // 1000, (frames - 1) * windows)


@given(batches(), tenths)
def test_lowest_scores_leave_first_and_ties_go_to_the_earlier_window(videos, tenths_of_percent):
    selection = run(videos, tenths_of_percent / 10)
    expected = [row for video in videos for row in plain_keep(video, tenths_of_percent)]
    assert selection.keep_TW.tolist() == expected
    flat = [kept for row in expected for kept in row]
    assert selection.kept_K.tolist() == [i for i, kept in enumerate(flat) if kept]
    assert selection.kept_per_video == [sum(map(sum, plain_keep(video, tenths_of_percent))) for video in videos]


@given(batches(st.floats(-1e6, 1e6, width=32)), tenths)
def test_keeps_first_frame(videos, tenths_of_percent):
    keep, start = run(videos, tenths_of_percent / 10).keep_TW, 0
    for video in videos:
        assert bool(keep[start].all())
        start += len(video)


@given(batches(), tenths)
def test_a_batch_of_videos_is_each_video_alone(videos, tenths_of_percent):
    together = run(videos, tenths_of_percent / 10)
    alone = [run([video], tenths_of_percent / 10) for video in videos]
    assert torch.equal(together.keep_TW, torch.cat([selection.keep_TW for selection in alone]))
    assert together.kept_per_video == [selection.kept_per_video[0] for selection in alone]


@given(st.permutations(range(12)), st.permutations(range(12)), tenths)
def test_distinct_scores_decide_whatever_their_order(values, places, tenths_of_percent):
    # 1 + 12 windows over 13 frames: any order of the later frames is allowed.
    video = [[0.0]] + [[float(value)] for value in values]
    moved = [video[0]] + [video[1 + place] for place in places]
    keep = run([video], tenths_of_percent / 10).keep_TW[1:, 0]
    assert run([moved], tenths_of_percent / 10).keep_TW[1:, 0].tolist() == keep[list(places)].tolist()


@given(batches(), tenths)
def test_selecting_twice_gives_the_same(videos, tenths_of_percent):
    assert torch.equal(run(videos, tenths_of_percent / 10).keep_TW, run(videos, tenths_of_percent / 10).keep_TW)


def test_counts_survive_floating_point():
    assert prune_count(40.0, 64, 81) == 2073  # of Table 6
    assert int(29.0 / 100 * 8 * 25) == 57 and prune_count(29.0, 8, 25) == 58
    assert int(14.5 / 100 * (8 * 25)) == 28 and prune_count(14.5, 8, 25) == 29


@pytest.mark.parametrize("percent", [100, 100.0])
def test_one_hundred_percent_empties_every_video(percent):
    selection = select(torch.rand(5, 4), [3, 2], percent)
    assert not selection.keep_TW.any() and selection.kept_K.numel() == 0 and selection.kept_per_video == [0, 0]


def test_a_clamped_request_is_said_once(monkeypatch):
    monkeypatch.setattr(budget, "_said", set())
    with pytest.warns(UserWarning, match=r"90 % of a video of 4 frame\(s\).*27 of the 32 windows") as caught:
        counts = [prune_count(90, 4, 9) for _ in range(3)]
    assert counts == [27, 27, 27] and len(caught) == 1


def test_a_request_that_fits_is_not_warned_about(monkeypatch):
    monkeypatch.setattr(budget, "_said", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prune_count(75, 4, 9) == 27


def test_scores_get_no_gradient_from_the_selection():
    scores = torch.rand(4, 3, requires_grad=True)
    selection = select(scores, [4], 50)
    assert not any(part.requires_grad for part in (selection.keep_TW, selection.kept_K))
