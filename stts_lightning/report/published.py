"""The paper's tables 1 to 8 as data, and what its averages and ratios come to when they are computed from its cells."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from stts_lightning.benchmark.averages import image_averages, mean_of, video_averages

PUBLISHED = Path(__file__).with_name("published.yaml")
RULES = ("video", "halves", "image", "speedup")
MAX_TEXT_TOKENS = 2048  # of a padded training example (paper 4.3)
TOKENS_PER_FRAME = 81
Cells = dict[str, float | None]


@dataclass(frozen=True)
class PublishedRow:
    """One row of a table; ``method``, ``percent`` and ``variant`` name the runs of ours that it stands beside."""

    name: str
    printed: Cells
    cells: Cells = field(default_factory=dict)
    method: str | None = None  # None: another model, `model`
    model: str | None = None
    percent: float | None = None  # k %, 0-100
    variant: str = "trained"
    frames: int | None = None  # of a video; in tables 6 and 7 of the batch
    videos: int = 1  # of the batch, in tables 6 and 7
    same_as: str | None = None  # <table>/<row>: where the cells of this row's averages are


@dataclass(frozen=True)
class PublishedTable:
    number: int
    caption: str
    experiment: str
    rule: str  # how `printed` follows from `columns`
    columns: list[str]
    printed: list[str]
    rows: list[PublishedRow]


def published_tables(path: Path = PUBLISHED) -> dict[int, PublishedTable]:
    """The tables by number.

    Raises:
        ValueError: a key is unknown or missing, a row has too many or too few numbers; the message names the place.
    """
    body = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(body, dict)
    found = [_table(entry, f"{path.name}, table {entry.get('number')}") for entry in body["tables"]]
    return {table.number: table for table in found}


def recomputed(table: PublishedTable, row: PublishedRow, tables: Mapping[int, PublishedTable]) -> Cells:
    """What ``row.printed`` should be by the cells, unrounded; None where the paper prints no cells for it.

    The three averages of the video tables: short over 6 benchmarks, long over 7 (6 without LongVideo-Sub),
    overall the mean of the two. The image table's overall average is over its 13 cells.
    """
    if row.same_as is not None:
        number, _, name = row.same_as.partition("/")
        other = next(r for r in tables[int(number)].rows if r.name == name)
        return recomputed(tables[int(number)], other, tables)
    if table.rule in ("video", "image"):
        found = averages(row.cells, table.rule)
    elif table.rule == "halves":
        found = {"short": None, "long": None, "average": mean_of(row.printed, ("short", "long"))}
    else:
        base = next(r for r in table.rows if r.frames == row.frames and r.percent == 0)
        found = {"speedup": _ratio(row.cells["throughput"], base.cells["throughput"])}
    return {name: found[name] for name in table.printed}


def averages(cells: Mapping[str, float | None], rule: str) -> Cells:
    """The three averages of a video or image table, by name; of groups without a cell there is none."""
    if rule == "image":
        images, several, average, _ = image_averages(cells)
        return {"image": images, "multi_image": several, "average": average}
    short, long, average, _ = video_averages(cells)
    return {"short": short, "long": long, "average": average}


def verdict(printed: float | None, computed: float | None, *, decimals: int = 1, slack: float = 0.05) -> str:
    """How a printed number stands to the one from the cells: same, rounding, differs, or nothing to compare ("").

    Args:
        decimals: of the printed number, which is rounded half up.
        slack: how far the cells' own rounding can move the computed number: half of their last digit for a mean.
    """
    if printed is None or computed is None:
        return ""
    unit = Decimal(1).scaleb(-decimals)
    exact, shown = Decimal(repr(computed)), Decimal(repr(printed))
    if exact.quantize(unit, ROUND_HALF_UP) == shown:
        return "same"
    return "rounding" if abs(exact - shown) <= unit / 2 + Decimal(repr(slack)) else "differs"


def tokens_per_instance(frames_per_video: int, videos: int, percent: float) -> int:
    """Table 6's tokens of a padded training example.

    The text's budget, 81 tokens a frame and, for each frame, its timestamp with the spaces around it and two
    markers; less k % of the vision tokens of each video, rounded down.
    """
    spaces = 2 * frames_per_video - 1  # one behind each timestamp, one before each but the first
    stamps = sum(len(f"{32.5 * i:.1f}") for i in range(frames_per_video)) + spaces
    vision = TOKENS_PER_FRAME * frames_per_video
    pruned = int(Decimal(repr(percent)) * vision // 100)
    return videos * (MAX_TEXT_TOKENS + vision + stamps + 2 * frames_per_video - pruned)


def _ratio(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value / base


def _table(entry: Mapping[str, Any], where: str) -> PublishedTable:
    _check_keys(entry, PublishedTable, where)
    if entry["rule"] not in RULES:
        raise ValueError(f"{where}: rule={entry['rule']!r} is not one of {', '.join(RULES)}.")
    rows = [_row(row, entry["columns"], entry["printed"], f"{where}, row {row.get('name')}") for row in entry["rows"]]
    return PublishedTable(**{**entry, "rows": rows})


def _row(entry: Mapping[str, Any], columns: Sequence[str], printed: Sequence[str], where: str) -> PublishedRow:
    _check_keys(entry, PublishedRow, where)
    if (entry.get("method") is None) == (entry.get("model") is None):
        raise ValueError(f"{where}: give either a method of ours or another model.")
    cells = _numbers(entry.get("cells", []), columns, f"{where}, cells")
    return PublishedRow(
        **{**entry, "cells": cells, "printed": _numbers(entry["printed"], printed, f"{where}, printed")}
    )


def _numbers(values: Sequence[Any], names: Sequence[str], where: str) -> Cells:
    if len(values) != len(names):
        raise ValueError(f"{where}: {len(values)} numbers for {len(names)} columns ({', '.join(names)}).")
    for value in values:
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"{where}: {value!r} is not a number; write null where the paper prints a dash.")
    return dict(zip(names, values, strict=True))


def _check_keys(entry: Mapping[str, Any], kind: type, where: str) -> None:
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(kind)}
    for key in entry:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise ValueError(f"{where}: unknown key {key!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
    missing = [key for key, needed in known.items() if needed and key not in entry]
    if missing:
        raise ValueError(f"{where}: {', '.join(missing)} missing.")
