"""What a scorer keeps, against plain loops and a made-up clip whose answer is known."""

from __future__ import annotations

import io

import numpy as np
import pytest

from stts_lightning.report.figures import _shade
from stts_lightning.report.scores import (
    Kept,
    kept_panels,
    read_decisions,
    relation,
    spearman,
    window_colour,
    window_motion,
)

SIDE, WINDOWS = 24, 16


def saved(keep: np.ndarray, scores: np.ndarray, frames: np.ndarray, num_frames: list[int]) -> bytes:
    out = io.BytesIO()
    np.savez(out, frames=frames, keep=keep, scores=scores, num_frames=np.array(num_frames))
    return out.getvalue()


def moving_clip() -> np.ndarray:
    """Grey; window 5 blinks grey in every other frame, window 10 is red throughout; (1, 6, S, S, 3)."""
    frames = np.full((1, 6, SIDE, SIDE, 3), 100, np.uint8)
    frames[0, 1::2, 6:12, 6:12] = 200
    frames[0, :, 12:18, 12:18] = (220, 20, 20)
    return frames


def test_motion_and_colour_see_what_they_should() -> None:
    frames = moving_clip()[0] / 255.0
    motion, colour = window_motion(frames, WINDOWS), window_colour(frames, WINDOWS)
    assert motion[1:, 5] == pytest.approx(100 / 255) and np.delete(motion, 5, axis=1).max() == 0
    assert motion[0].max() == 0  # nothing comes before frame 0
    assert colour[:, 10] == pytest.approx(200 / 255) and np.delete(colour, 10, axis=1).max() == pytest.approx(0)


def test_windows_are_those_of_the_contact_sheet_where_they_do_not_divide_the_frame() -> None:
    side, windows = 26, 9
    for window in range(windows):
        keep = np.arange(windows) != window
        shaded = _shade(np.full((side, side, 3), 255, np.uint8), keep) < 255
        share = window_colour(shaded[None] * np.array([1.0, 0.0, 0.0]), windows)[0]
        assert share[window] == 1.0 and share.sum() == 1.0


def test_a_scorer_of_motion_keeps_what_moves() -> None:
    frames = moving_clip()
    scores = np.zeros((1, 6, WINDOWS))
    scores[0, 1:, 5] = 1.0
    keep = scores > 0.5
    keep[0, 0] = True
    kept = read_decisions(saved(keep, scores, frames, [6]))
    assert len(kept.scores) == 5 * WINDOWS and kept.keep.sum() == 5  # frame 0 is no decision
    motion = relation(kept, kept.motion)
    assert motion.correlation == pytest.approx(1.0) and motion.middle[-1] > 0 == motion.middle[0]
    assert motion.share.tolist() == [0, 0, 0, 0, pytest.approx(5 / 16)]
    assert relation(kept, kept.colour).correlation == pytest.approx(-1 / 15)  # two different windows of 16
    assert kept.frame_share.tolist() == [1.0, *[1 / 16] * 5]


def test_padding_is_no_frame() -> None:
    frames = np.concatenate([moving_clip(), moving_clip()])
    keep = np.ones((2, 6, WINDOWS), bool)
    keep[1, 3:] = False  # behind the second clip's end
    kept = read_decisions(saved(keep, keep * 1.0, frames, [6, 3]))
    assert len(kept.scores) == (5 + 2) * WINDOWS and kept.keep.all() and (kept.frame_share == 1).all()
    assert relation(kept, kept.motion).correlation is None  # equal scores say nothing


def test_spearman_is_pearson_on_counted_ranks() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 5, 40).astype(float), rng.normal(size=40)

    def slow_ranks(values: np.ndarray) -> list[float]:
        return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]

    assert spearman(one, other) == pytest.approx(np.corrcoef(slow_ranks(one), slow_ranks(other))[0, 1])
    assert spearman(one, np.ones(40)) is None


def test_panels_have_a_line_a_method_in_percent() -> None:
    rng = np.random.default_rng(1)
    columns = {name: rng.random(50) for name in ("scores", "motion", "colour")}
    kept = Kept(**columns, keep=rng.random(50) < 0.5, clip=np.zeros(50, int),
                frame_share=np.array([1.0, 0.25]))  # fmt: skip
    motion, colour, frame = kept_panels({"stts": kept, "random": kept})
    assert [line.label for line in motion.series] == ["STTS", "Random"]
    assert frame.series[0].y == [100.0, 25.0]
    assert sum(colour.series[0].y) / 5 == pytest.approx(100 * kept.keep.mean())  # five bins of ten
