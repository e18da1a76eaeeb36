"""What is pruned, as moving pictures: the same frames beside each other, one panel a method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stts_lightning.report.figures import _shade, style

GAP = 4  # pixels between panels
CAPTION = 28  # pixels above them
_DPI = 100


def side_by_side(frames_TSSC: np.ndarray, keeps: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
    """One (H, W, 3) uint8 picture a frame, of even sides as H.264 wants them: the frame as it is, and for each method
    with the pruned windows dark.

    Args:
        keeps: (T, windows) by method.
    """
    captions = [("All tokens", "#000000")]
    captions += [(f"{style(m)[2]}, {100 * (1 - keep.mean()):.0f} % pruned", style(m)[0]) for m, keep in keeps.items()]
    size = frames_TSSC.shape[1]
    top = np.concatenate([_caption(text, colour, size + GAP) for text, colour in captions], axis=1)
    for t, frame in enumerate(frames_TSSC):
        panels = [frame, *(_shade(frame, keep[t]) for keep in keeps.values())]
        row = np.concatenate([np.pad(panel, [(0, 0), (0, GAP), (0, 0)], constant_values=255) for panel in panels], 1)
        picture = np.concatenate([top, row])
        height, width = (side - side % 2 for side in picture.shape[:2])
        yield np.ascontiguousarray(picture[:height, :width])


def _caption(text: str, colour: str, width: int) -> np.ndarray:
    figure = Figure(figsize=(width / _DPI, CAPTION / _DPI), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    figure.text(0.02, 0.5, text, ha="left", va="center", fontsize=7.5, color=colour)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
