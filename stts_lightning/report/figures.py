"""Two figures: accuracy against the pruned share, and a contact sheet of what was pruned.

Matplotlib's objects only, never pyplot: no window, no state left behind, safe in any process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stts_lightning.config import FIXED_PERCENT
from stts_lightning.report.tables import Mean, Row, average, method_rank, series_names

# Okabe and Ito's palette, told apart by colour-blind readers; markers differ as well, for grey prints.
STYLE = {
    "none": ("#000000", "o", "unpruned"),
    "stts": ("#0072B2", "o", "STTS"),
    "stts_no_aux": ("#D55E00", "D", "STTS without auxiliary loss"),
    "heuristic": ("#009E73", "s", "Heuristic"),
    "random": ("#E69F00", "^", "Random"),
    "tome": ("#56B4E9", "P", "ToMe"),
    "heuristic_reference": ("#7A5195", "X", "Heuristic with a running reference"),
    "post_vit_heuristic": ("#8C564B", "*", "Heuristic after the ViT"),
    "fewer_frames": ("#999933", "<", "Fewer frames"),
    "coarser_pooling": ("#AA4499", ">", "Coarser pooling"),
    "text_only": ("#6B6B6B", "d", "Text only"),
}
_OTHER = ("#CC79A7", "v")
_GREY = "#6B6B6B"
PRUNED_SHADE = 0.80  # how much of a pruned window's light is taken away
_SHADE_COLOUR = np.array([16.0, 16.0, 24.0])


def style(series: str) -> tuple[str, str, str]:
    """Colour, marker and label of a method, the same in every figure; of a series (see `series_names`) its method's."""
    method, _, rest = series.partition("-")
    colour, marker, label = STYLE.get(method, (*_OTHER, method))
    return colour, marker, label + (f", {rest.replace('-', ', ').replace('_', ' ')}" if rest else "")


def accuracy_figure(
    rows: Sequence[Row],
    path: str | Path,
    *,
    chance: float | None = None,
    text_only: float | None = None,
    note: str = "",
) -> None:
    """Accuracy against k, a line a method with standard errors, averaged over seeds; against l where runs of one k
    were scored after several layers.

    Args:
        rows: the unpruned baseline (method `none`) becomes a horizontal line, with its error as a band.
        chance: accuracy of a guess, 0-1.
        text_only: accuracy with no vision token, 0-1.
    """
    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    means = average(rows)
    pruned = [m for m in means if m.method != "none"]
    percents = sorted({m.prune_percent for m in pruned}) or [0.0]
    layers = sorted({float(m.layer) for m in pruned if m.method not in FIXED_PERCENT})
    by_layer = len(percents) == 1 < len(layers)
    ticks = layers if by_layer else percents
    for m in means:
        if m.method == "none":
            _baseline(axes, m.accuracy, m.accuracy_stderr)
    lines: dict[str, list[Mean]] = {}
    names = series_names(replace(m, layer=0) if by_layer else m for m in pruned)
    for m in pruned:
        lines.setdefault(names[m.series._replace(layer=0) if by_layer else m.series], []).append(m)
    for index, (name, line) in enumerate(
        sorted(lines.items(), key=lambda item: (method_rank(item[1][0].method), item[0]))
    ):
        colour, marker, label = style(name)
        trained = line[0].variant == "trained"
        nudge = (index - (len(lines) - 1) / 2) * _spread(ticks)  # error bars beside, not upon, each other
        axes.errorbar(
            [(m.layer if by_layer else m.prune_percent) + nudge for m in line],
            [100 * m.accuracy for m in line],
            yerr=[100 * (m.accuracy_stderr or 0.0) for m in line],
            color=colour, marker=marker, capsize=3, linewidth=1.8, markersize=6, elinewidth=1.1,
            label=label, linestyle="-" if trained else "--", markerfacecolor=colour if trained else "white",
        )  # fmt: skip
    for level, label, dashes in ((text_only, "text only", (0, (4, 2))), (chance, "chance", (0, (1, 2)))):
        if level is not None:
            axes.axhline(100 * level, color=_GREY, linestyle=dashes, linewidth=1.3, label=label)
    _finish_axes(axes, ticks, "scored after ViT block l" if by_layer else "pruned windows, k (%)", note)
    _save(figure, path)


def _baseline(axes: Any, accuracy: float, stderr: float | None) -> None:
    axes.axhline(100 * accuracy, color="black", linewidth=1.3, linestyle=(0, (6, 2)), label="unpruned (k = 0)")
    if stderr:
        axes.axhspan(100 * (accuracy - stderr), 100 * (accuracy + stderr), color="black", alpha=0.07, linewidth=0)


def _spread(percents: Sequence[float]) -> float:
    gaps = [b - a for a, b in zip(percents, percents[1:], strict=False)]
    return 0.03 * min(gaps) if gaps else 0.4


def _finish_axes(axes: Any, ticks: Sequence[float], label: str, note: str) -> None:
    margin = 0.08 * (ticks[-1] - ticks[0]) or 2.0
    axes.set_xlim(ticks[0] - margin, ticks[-1] + margin)
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy (%)")
    axes.grid(axis="y", color="#E3E3E3", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if note:
        axes.set_title(note, fontsize=9, color="#B00020", loc="left")
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))


def contact_sheet(
    decisions: Mapping[str, str | Path], path: str | Path, *, video: str | None = None, max_frames: int = 8
) -> None:
    """The paper's figure 7: sampled frames of one clip in a row a method, pruned windows dark.

    Args:
        decisions: method (or any label) -> its decisions.npz.
        video: which clip; null takes the first that every file has.
        max_frames: frames shown, spread over the clip; the first and the last are always among them.

    Raises:
        ValueError: no clip is common to all files.
    """
    loaded = {name: _load(file) for name, file in decisions.items()}
    name = video if video is not None else _common_video(loaded, decisions)
    clips = {method: _clip(arrays, name) for method, arrays in loaded.items()}
    frames, times = next(iter(clips.values()))[:2]
    columns = np.unique(np.linspace(0, len(frames) - 1, min(max_frames, len(frames))).round().astype(int))
    lines: list[tuple[str, str, str, list[np.ndarray]]] = []
    lines.append(("All tokens", "", "#000000", [frames[i] for i in columns]))
    for method, (frames, _, keep) in clips.items():
        share = f"{100 * (1 - keep.mean()):.0f} % pruned"
        shaded = [_shade(frames[i], keep[i]) for i in columns]
        lines.append((style(method)[2].replace(", ", ",\n"), share, style(method)[0], shaded))
    _save(_grid(lines, [f"{times[i]:.1f} s" for i in columns], f"{Path(name).name}: pruned windows are dark"), path)


def _load(file: str | Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in ("frames", "keep", "times", "videos", "num_frames")}


def _common_video(loaded: Mapping[str, dict[str, np.ndarray]], decisions: Mapping[str, str | Path]) -> str:
    first, *others = ([str(v) for v in arrays["videos"]] for arrays in loaded.values())
    for name in first:
        if all(name in videos for videos in others):
            return name
    raise ValueError(f"no clip is in all of {', '.join(str(p) for p in decisions.values())}: evaluate the same clips.")


def _clip(arrays: dict[str, np.ndarray], video: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames (F, S, S, 3), times (F,) and keep (F, W) of one clip, without its padding."""
    index = [str(v) for v in arrays["videos"]].index(video)
    count = int(arrays["num_frames"][index])
    return arrays["frames"][index, :count], arrays["times"][index, :count], arrays["keep"][index, :count]


def _shade(frame: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Darken the pruned windows of a frame (S, S, 3); keep (W,) is a square grid in row order."""
    side = math.isqrt(keep.size)
    assert side * side == keep.size, f"{keep.size} windows are no square grid"
    pixel = np.minimum(np.arange(frame.shape[0]) * side // frame.shape[0], side - 1)
    pruned = ~keep.reshape(side, side)[np.ix_(pixel, pixel)][..., None]
    dark = frame * (1 - PRUNED_SHADE) + _SHADE_COLOUR * PRUNED_SHADE
    return np.where(pruned, dark, frame).astype(np.uint8)


def _grid(lines: Sequence[tuple[str, str, str, list[np.ndarray]]], times: Sequence[str], title: str) -> Figure:
    rows, columns, label = len(lines), len(times), 1.15  # the label column's width, in cells
    header = 0.45  # inches
    height = 1.35 * rows + header
    figure = Figure(figsize=(1.35 * (columns + label), height), dpi=150)
    grid = figure.add_gridspec(
        rows, columns + 1, width_ratios=[label] + [1] * columns, wspace=0.04, hspace=0.04,
        left=0.01, right=0.99, bottom=0.01, top=1 - header / height,
    )  # fmt: skip
    for r, (name, share, colour, images) in enumerate(lines):
        text = figure.add_subplot(grid[r, 0])
        text.axis("off")
        text.text(0.95, 0.55, name, ha="right", va="bottom", fontsize=10, fontweight="bold", color=colour, wrap=True)
        text.text(0.95, 0.45, share, ha="right", va="top", fontsize=8.5, color=_GREY)
        for c, image in enumerate(images):
            axes = figure.add_subplot(grid[r, c + 1])
            axes.imshow(image, interpolation="auto")  # nearest when a small frame is enlarged, else smoothed
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_color("#BBBBBB")
            if r == 0:
                axes.set_title(times[c], fontsize=9, pad=3)
    figure.text(0.012, 0.985, title, fontsize=9, va="top", color=_GREY)
    return figure


def _save(figure: Figure, path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))
