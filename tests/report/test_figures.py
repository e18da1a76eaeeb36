"""The figures, read back as pixels."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from stts_lightning.report.figures import _shade, accuracy_figure, contact_sheet, style
from stts_lightning.report.tables import Row


def decisions(path: Path, videos: list[str], num_frames: int = 12) -> Path:
    """White frames of 48 pixels, 4 x 4 windows; every window after the first frame is pruned."""
    count = len(videos)
    keep = np.zeros((count, num_frames, 16), bool)
    keep[:, 0] = True
    np.savez(
        path,
        frames=np.full((count, num_frames, 48, 48, 3), 255, np.uint8),
        scores=keep * 1.0,
        keep=keep,
        times=np.tile(np.arange(num_frames) / 2, (count, 1)),
        videos=np.array(videos),
        num_frames=np.full(count, num_frames),
    )
    return path


def test_pruned_windows_are_dark_and_kept_ones_untouched() -> None:
    frame = np.full((48, 48, 3), 200, np.uint8)
    keep = np.ones(16, bool)
    keep[6] = False  # the second row's third window
    shaded = _shade(frame, keep)
    assert shaded[12:24, 24:36].max() < 60
    shaded[12:24, 24:36] = 200
    assert (shaded == frame).all()


def test_contact_sheet_has_a_row_a_method_and_at_most_eight_frames(tmp_path: Path) -> None:
    paths = {m: decisions(tmp_path / f"{m}.npz", ["a.mp4", "b.mp4"]) for m in ("stts", "random")}
    contact_sheet(paths, tmp_path / "two.png")
    contact_sheet({"stts": paths["stts"]}, tmp_path / "one.png", max_frames=4)
    two, one = imread(tmp_path / "two.png"), imread(tmp_path / "one.png")
    assert two.shape[0] > 1.4 * one.shape[0] - 100 and two.shape[1] > 1.7 * one.shape[1]
    dark = two[..., :3].max(axis=2) < 0.3
    assert 0.3 < dark.mean() < 0.6  # two rows of three, but for the first frame and the labels


def test_contact_sheet_wants_a_clip_that_every_method_has(tmp_path: Path) -> None:
    one, other = decisions(tmp_path / "1.npz", ["a.mp4"]), decisions(tmp_path / "2.npz", ["b.mp4"])
    with pytest.raises(ValueError, match="no clip is in all of"):
        contact_sheet({"stts": one, "random": other}, tmp_path / "sheet.png")


def test_accuracy_figure_draws_each_method_in_its_colour_and_keeps_no_state(tmp_path: Path) -> None:
    rows = [Row("none", 0.0, 0, 0.9, 0.02, 128.0, None, None)]
    rows += [Row(m, k, 0, 0.8 - k / 200, 0.02, 64.0, None, None) for m in ("stts", "random") for k in (30.0, 50.0)]
    before = dict(matplotlib.rcParams)
    accuracy_figure(rows, tmp_path / "a.png", chance=0.35, text_only=0.36, note="a note")
    pixels = (imread(tmp_path / "a.png")[..., :3] * 255).round().astype(int).reshape(-1, 3)
    for method, drawn in (("stts", True), ("random", True), ("heuristic", False)):
        colour = [int(style(method)[0][i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(pixels - colour).max(axis=1) < 4).any() == drawn
    assert dict(matplotlib.rcParams) == before


def test_a_series_has_its_methods_colour_and_says_what_it_is() -> None:
    colour, marker, label = style("stts-l2-test_time_scaling")
    assert (colour, marker) == style("stts")[:2] and label == "STTS, l2, test time scaling"


def test_runs_after_several_layers_are_drawn_against_the_layer(tmp_path: Path) -> None:
    def leftmost(layers: tuple[int, ...]) -> float:
        rows = [Row("stts", 50.0, 0, 0.8, None, 64.0, None, None, layer) for layer in layers]
        accuracy_figure(rows, tmp_path / "a.png")
        pixels = (imread(tmp_path / "a.png")[..., :3] * 255).round().astype(int)
        colour = [int(style("stts")[0][i : i + 2], 16) for i in (1, 3, 5)]
        drawn = (np.abs(pixels - colour).max(axis=2) < 4)[:, : pixels.shape[1] // 2]
        return np.flatnonzero(drawn.any(axis=0)).min() / pixels.shape[1]

    assert leftmost((0, 3)) < 0.2 < 0.25 < leftmost((3, 3))  # of one layer alone: one point in the middle


def test_accuracy_figure_of_the_baseline_alone(tmp_path: Path) -> None:
    accuracy_figure([Row("none", 0.0, 0, 0.9, None, 128.0, None, None)], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
