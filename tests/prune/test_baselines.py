"""Frames, references and noise: each against its rule, written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stts_lightning.prune.registry import Host, build_scorer
from stts_lightning.prune.select import select
from stts_lightning.prune.types import Windows


def windows_of(frames, side=3, percent=50.0, window=1):
    """Windows of window x window patches, side x side of them a frame."""
    per_frame, patches = side * side, window * window
    table = torch.arange(sum(frames) * per_frame * patches).view(-1, patches)
    return Windows(table, list(frames), per_frame, side, side, percent)


@given(st.integers(2, 40), st.floats(0, 95))
def test_fewer_frames_keeps_whole_frames_and_a_part_of_one(frames, percent):
    windows = windows_of([frames], percent=percent)
    scores = build_scorer("fewer_frames", Host(4, 1))(torch.zeros(frames, 9, 4), windows).scores_TW
    left = select(scores, [frames], percent).keep_TW.sum(1)
    assert left.sum() == windows.budget()[0]
    assert sum(0 < count < 9 for count in left.tolist()) <= 1
    assert left[0] == 9
    assert left[-1] == 9 or int((left > 0).sum()) <= 2  # a part of the last frame only where there is no other


@pytest.mark.parametrize(
    "frames, percent, kept",
    [(8, 50, [0, 2, 5, 7]), (64, 75, None), (5, 60, [0, 4]), (9, 66.67, [0, 4, 8]), (8, 45, [0, 2, 4, 5, 7])],
)
def test_fewer_frames_are_evenly_spread_from_first_to_last(frames, percent, kept):
    windows = windows_of([frames], percent=percent)
    scores = build_scorer("fewer_frames", Host(4, 1))(torch.zeros(frames, 9, 4), windows).scores_TW
    chosen = select(scores, [frames], percent).keep_TW.any(1).nonzero().flatten().tolist()
    assert kept is None or chosen == kept
    assert chosen[0] == 0 and chosen[-1] == frames - 1
    gaps = [b - a for a, b in zip(chosen, chosen[1:], strict=False)]
    assert max(gaps) - min(gaps) <= 1


def slow_reference_scores(video, leaving, threshold):
    """The released rule, window by window; -1 is protected, and the highest leave."""
    for attempt in range(6):
        limit = threshold - 0.05 * attempt
        if limit < 0:
            break
        reference, scores = [w / w.norm() for w in video[0]], [[-1.0] * len(video[0])]
        for frame in video[1:]:
            frame = [w / w.norm() for w in frame]
            similar = [float(a @ b) for a, b in zip(frame, reference, strict=True)]
            if sum(similar) / len(similar) < limit:
                scores.append([-1.0] * len(frame))
                reference = frame
                continue
            scores.append(similar)
            reference = [f if s < limit else r for f, r, s in zip(frame, reference, similar, strict=True)]
        if sum(s != -1.0 for row in scores for s in row) >= leaving:
            break
    return torch.tensor(scores)


@pytest.mark.parametrize("percent", [20, 50, 75])
@pytest.mark.parametrize("seed", range(6))
def test_running_reference_is_the_released_rule(seed, percent):
    generator = torch.Generator().manual_seed(seed)
    # Scenes that hold for a few frames, with noise that makes some windows leave the reference and some not.
    scenes = torch.randn(3, 9, 6, generator=generator)
    noise = torch.randn(8, 9, 6, generator=generator) * torch.rand(8, 1, 1, generator=generator) * 1.5
    video = scenes[torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])] + noise
    windows = windows_of([8, 5], percent=percent)
    other = torch.randn(5, 9, 6, generator=generator)
    scorer = build_scorer("heuristic_reference", Host(6, 1))
    scores = scorer(torch.cat([video, other]), windows).scores_TW[:8]
    slow = slow_reference_scores(video, 72 - windows.budget()[0], 0.85)
    protected = slow == -1
    assert torch.equal(scores == 3, protected) and 0 < protected[1:].sum() < 63
    torch.testing.assert_close(scores[~protected], 1 - slow[~protected])


def test_a_budget_that_is_just_met_keeps_its_threshold():
    """Frame 1 is a new scene at 0.85 and none at 0.80; the nine windows of frame 2 are enough."""
    one, two = torch.eye(2)[0], torch.tensor([0.82, (1 - 0.82**2) ** 0.5])
    video = torch.stack([one.expand(9, 2), two.expand(9, 2), two.expand(9, 2)])
    windows = windows_of([3], percent=33.34)
    assert windows.budget() == [18]
    scores = build_scorer("heuristic_reference", Host(2, 1))(video, windows).scores_TW
    assert (scores[1] == 3).all() and (scores[2] < 1e-6).all()
    one_more = build_scorer("heuristic_reference", Host(2, 1))(video, windows_of([3], percent=38)).scores_TW
    torch.testing.assert_close(one_more[1], torch.full((9,), 0.18))


def test_an_unchanged_window_leaves_before_one_that_changed_once():
    """Against the frame before, a change is seen once; against a running reference too, for it moves on."""
    video = torch.eye(6)[:1].expand(9, 6).repeat(6, 1, 1)
    video[3:, 4] = torch.eye(6)[1]
    windows = windows_of([6], percent=80)
    scores = build_scorer("heuristic_reference", Host(6, 1))(video, windows).scores_TW
    assert scores[3, 4] == 1 and scores[4, 4] == 0 and scores[2, 4] == 0


def test_random_is_fixed_in_evaluation_and_new_in_training():
    windows = windows_of([4])
    scorer = build_scorer("random", Host(4, 1, seed=2))
    x = torch.zeros(4, 9, 4)
    assert torch.equal(scorer.eval()(x, windows).scores_TW, scorer(x, windows).scores_TW)
    assert not torch.equal(scorer.train()(x, windows).scores_TW, scorer(x, windows).scores_TW)
