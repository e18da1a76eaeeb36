"""What a scorer keeps: its scores against motion, against content and by frame, from the decisions of a run."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stts_lightning.report.curves import Panel, Series
from stts_lightning.report.figures import style

BINS = 5  # of the windows, by rank


@dataclass(frozen=True)
class Kept:
    """The decisions on the windows of some clips; a row a window, frames 1.. alone, for frame 0 always stays."""

    scores: np.ndarray
    keep: np.ndarray
    motion: np.ndarray  # mean absolute change of a pixel since the frame before, 0-1
    colour: np.ndarray  # mean distance of a pixel's brightest from its darkest channel, 0-1: grey has none
    clip: np.ndarray
    frame_share: np.ndarray  # share kept by frame, frame 0 included


@dataclass(frozen=True)
class Relation:
    """How scores and decisions go with something about the windows."""

    correlation: float | None  # Spearman's, the mean over the clips; None where scores or values are all equal
    middle: np.ndarray  # mean value of each bin of windows, from low to high
    share: np.ndarray  # kept in each bin


def read_decisions(body: bytes) -> Kept:
    """The windows of all clips of a run's decisions.npz."""
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        stored = {name: arrays[name] for name in ("frames", "scores", "keep", "num_frames")}
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ("scores", "keep", "motion", "colour", "clip")}
    longest = int(stored["num_frames"].max())
    kept, there = np.zeros(longest), np.zeros(longest)
    for index, count in enumerate(stored["num_frames"]):
        frames = stored["frames"][index, :count].astype(np.float64) / 255
        keep = stored["keep"][index, :count]
        motion, colour = window_motion(frames, keep.shape[1]), window_colour(frames, keep.shape[1])
        columns = (stored["scores"][index, :count], keep, motion, colour, np.full(keep.shape, index))
        for name, values in zip(rows, columns, strict=True):
            rows[name].append(values[1:].ravel())
        kept[:count] += keep.sum(axis=1)
        there[:count] += keep.shape[1]
    return Kept(**{name: np.concatenate(values) for name, values in rows.items()}, frame_share=kept / there)


def window_motion(frames: np.ndarray, windows: int) -> np.ndarray:
    """Mean absolute change since the frame before, (F, W) of frames (F, S, S, 3); nothing moves in frame 0."""
    change = np.abs(np.diff(frames, axis=0, prepend=frames[:1])).mean(axis=-1)
    return _by_window(change, windows)


def window_colour(frames: np.ndarray, windows: int) -> np.ndarray:
    """Mean distance between the channels of a pixel, (F, W)."""
    return _by_window(frames.max(axis=-1) - frames.min(axis=-1), windows)


def relation(kept: Kept, values: np.ndarray) -> Relation:
    """Scores and decisions against ``values``, one a window.

    Windows are binned by rank over all clips; the correlation is taken within each clip, whose windows competed.
    """
    found = [spearman(kept.scores[kept.clip == clip], values[kept.clip == clip]) for clip in np.unique(kept.clip)]
    known = [value for value in found if value is not None]
    bins = np.array_split(np.argsort(values, kind="stable"), BINS)
    middle = np.array([values[members].mean() for members in bins])
    share = np.array([kept.keep[members].mean() for members in bins])
    return Relation(sum(known) / len(known) if known else None, middle, share)


def spearman(one: np.ndarray, other: np.ndarray) -> float | None:
    """Rank correlation, ties sharing their mean rank; None where one side does not vary."""
    ranks = [_ranks(values) - (len(values) - 1) / 2 for values in (one, other)]
    norm = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return None if norm == 0 else float((ranks[0] * ranks[1]).sum()) / norm


def kept_panels(by_method: Mapping[str, Kept]) -> list[Panel]:
    """The share kept against motion, against colour, and by frame; a line a method."""
    against = {"motion": "windows by motion, fifths", "colour": "windows by colour, fifths"}
    panels = []
    for name, label in against.items():
        series = [
            _series(method, range(1, BINS + 1), relation(kept, getattr(kept, name)).share)
            for method, kept in by_method.items()
        ]
        panels.append(Panel(f"Against {name}", label, "kept (%)", series))
    series = [_series(method, range(len(kept.frame_share)), kept.frame_share) for method, kept in by_method.items()]
    return [*panels, Panel("By frame", "frame", "kept (%)", series)]


def _by_window(values: np.ndarray, windows: int) -> np.ndarray:
    """Mean of values (F, S, S) over the windows of a square grid, in row order; rows at the edge go to the last."""
    side = math.isqrt(windows)
    assert side * side == windows, f"{windows} windows are no square grid"
    starts = (np.arange(side) * values.shape[1] + side - 1) // side
    sums = np.add.reduceat(np.add.reduceat(values, starts, axis=1), starts, axis=2)
    sizes = np.diff(np.append(starts, values.shape[1]))
    return (sums / np.outer(sizes, sizes)).reshape(len(values), windows)


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank: np.ndarray = (last - (counts + 1) / 2)[place]
    return mean_rank


def _series(method: str, x: Sequence[int], share: np.ndarray) -> Series:
    colour, marker, label = style(method)
    return Series(label, colour, marker, list(x), [100 * float(value) for value in share])
