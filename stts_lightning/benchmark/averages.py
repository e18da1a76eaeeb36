"""Averages of Table 1 and Table 4, always from their cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

SHORT = ("next_qa", "perception_test", "mvbench", "tomato", "motion_bench", "temp_compass")
LONG = ("video_mme", "video_mme_sub", "long_video", "long_video_sub", "mlvu", "lvbench", "video_eval_pro")
IMAGE = (
    "ai2d", "chart_qa", "doc_qa", "info_qa", "text_vqa", "vqa2", "real_world_qa", "mmmu", "math_vista", "count_bench",
    "pixmo_count",
)  # fmt: skip
MULTI_IMAGE = ("muir_bench", "mmiu")


class Averages(NamedTuple):
    """Three averages in the cells' own unit, None where there is no cell; ``missing`` names the cells that lack."""

    first: float | None
    second: float | None
    average: float | None
    missing: tuple[str, ...]


def video_averages(cells: Mapping[str, float | None]) -> Averages:
    """Short, long, and the mean of the two: not the mean of thirteen. A missing cell leaves the mean to the rest."""
    short, long = mean_of(cells, SHORT), mean_of(cells, LONG)
    both = None if short is None or long is None else mean_of({"short": short, "long": long}, ("short", "long"))
    return Averages(short, long, both, _missing(cells, SHORT + LONG))


def image_averages(cells: Mapping[str, float | None]) -> Averages:
    """One image, several images, and the mean of all thirteen cells."""
    images, several = mean_of(cells, IMAGE), mean_of(cells, MULTI_IMAGE)
    return Averages(images, several, mean_of(cells, IMAGE + MULTI_IMAGE), _missing(cells, IMAGE + MULTI_IMAGE))


def mean_of(cells: Mapping[str, float | None], names: Sequence[str]) -> float | None:
    """The mean of those of the named cells that there are, exact: a printed average must not hang on a last bit."""
    known = [value for value in (cells.get(name) for name in names) if value is not None]
    return float(sum(Decimal(repr(value)) for value in known) / len(known)) if known else None


def _missing(cells: Mapping[str, float | None], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if cells.get(name) is None)
