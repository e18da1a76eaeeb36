"""The table of a sweep, as a CSV file, as Markdown and for the terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, NamedTuple

from rich import box
from rich.table import Table

from stts_lightning.config import FIXED_PERCENT
from stts_lightning.runs import Result

QUICK_WARNING = "QUICK: everything was shrunk to try the line out. These numbers mean nothing."
_ORDER = ("none", "stts", "stts_no_aux", "heuristic", "random")
_LEFT = ("method", "variant")
_COUNTS = ("prune_percent", "seed", "seeds", "layer", "max_frames")
_MARKS = {"trained": "", "inference_only": " *", "test_time_scaling": " +", "other_percent": " %"}  # in a terminal
_SPECIAL = ("layer", "variant", "max_frames")  # left out where all runs have the same


class Series(NamedTuple):
    """What is one line in a figure."""

    method: str
    layer: int = 0
    variant: str = "trained"


@dataclass(frozen=True)
class Row:
    """One run; the fields are the columns of results.csv, in order."""

    method: str
    prune_percent: float  # 0-100
    seed: int
    accuracy: float  # 0-1
    accuracy_stderr: float | None  # clustered by video
    kept_tokens: float  # mean vision tokens of a clip that reach the language model
    samples_per_second: float | None  # clips, in training
    peak_memory_gib: float | None
    layer: int = 0  # l
    variant: str = "trained"
    max_frames: int = 64  # at evaluation

    series = property(lambda self: Series(self.method, self.layer, self.variant))


@dataclass(frozen=True)
class Mean:
    """The runs that differ in their seeds alone, averaged."""

    method: str
    prune_percent: float
    seeds: int
    accuracy: float
    accuracy_stderr: float | None
    kept_tokens: float
    samples_per_second: float | None
    peak_memory_gib: float | None
    layer: int = 0
    variant: str = "trained"
    max_frames: int = 64

    series = property(lambda self: Series(self.method, self.layer, self.variant))


COLUMNS = tuple(f.name for f in fields(Row))


def row(result: Result) -> Row:
    """The columns of the table that a result fills."""
    return Row(**{name: getattr(result, name) for name in COLUMNS})


def sort_rows(rows: Iterable[Row]) -> list[Row]:
    """The unpruned baseline first, then by percentage, method, layer, variant and seed."""

    def place(r: Row) -> tuple[Any, ...]:
        percent = r.prune_percent if r.method != "none" else -1.0
        return percent, method_rank(r.method), r.layer, r.variant != "trained", r.variant, r.seed

    return sorted(rows, key=place)


def series_names(rows: Iterable[Row | Mean]) -> dict[Series, str]:
    """A short name each: the method's, with the layer where there are several, and with what was not trained."""
    rows = list(rows)
    pruned = [r for r in rows if r.method not in FIXED_PERCENT]
    several = len({r.layer for r in pruned}) > 1
    names = {r.series: r.method for r in rows}
    for s in {r.series for r in pruned}:
        names[s] += (f"-l{s.layer}" if several else "") + ("" if s.variant == "trained" else f"-{s.variant}")
    return names


def method_rank(method: str) -> tuple[int, str]:
    """Sorts methods the same way in every table and figure; unknown ones come last."""
    return (_ORDER.index(method) if method in _ORDER else len(_ORDER), method)


def average(rows: Iterable[Row]) -> list[Mean]:
    """One line a method, percentage, layer, variant and number of frames.

    Its standard error is the larger of two: that of one run (over the videos, which the seeds share),
    and that of the mean over the seeds.
    """
    groups: dict[tuple[Series, float, int], list[Row]] = {}
    for r in sort_rows(rows):
        groups.setdefault((r.series, r.prune_percent, r.max_frames), []).append(r)
    return [_mean(group) for group in groups.values()]


def _mean(group: Sequence[Row]) -> Mean:
    accuracies = [r.accuracy for r in group]
    accuracy = sum(accuracies) / len(group)
    errors = [e for e in [_average([r.accuracy_stderr for r in group])] if e is not None]
    if len(group) > 1:
        variance = sum((a - accuracy) ** 2 for a in accuracies) / (len(group) - 1)
        errors.append(math.sqrt(variance / len(group)))
    return Mean(
        method=group[0].method,
        prune_percent=group[0].prune_percent,
        seeds=len(group),
        accuracy=accuracy,
        accuracy_stderr=max(errors) if errors else None,
        kept_tokens=sum(r.kept_tokens for r in group) / len(group),
        samples_per_second=_average([r.samples_per_second for r in group]),
        peak_memory_gib=_average([r.peak_memory_gib for r in group]),
        layer=group[0].layer,
        variant=group[0].variant,
        max_frames=group[0].max_frames,
    )


def _average(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def csv_text(rows: Iterable[Row]) -> str:
    """results.csv: full precision, empty where a run has no such number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for r in rows:
        writer.writerow(["" if value is None else value for value in astuple(r)])
    return out.getvalue()


def markdown(rows: Sequence[Row | Mean]) -> str:
    """A Markdown table, its columns padded so that it reads as text too."""
    same = [name for name in _SPECIAL if len({getattr(r, name) for r in rows}) < 2]
    header = [name for name in ([f.name for f in fields(rows[0])] if rows else COLUMNS) if name not in same]
    body = [_cells(r, header) for r in rows]
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
    rule = ["-" * (w - 1) + ("-" if name in _LEFT else ":") for w, name in zip(widths, header, strict=True)]
    lines = [header, rule, *body]
    return "\n".join("| " + " | ".join(_pad(c, w, h) for c, w, h in zip(x, widths, header, strict=True)) + " |"
                     for x in lines)  # fmt: skip


def terminal_table(rows: Sequence[Row]) -> Table:
    """A rich table of 80 columns at most; it prints as plain text where the output is no terminal."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("method", "k %", "seed", "accuracy", "kept tokens", "clips/s", "GiB"):
        table.add_column(name, justify="left" if name in _LEFT else "right", no_wrap=True)
    names = series_names(rows)
    for r in rows:
        _, percent, seed, accuracy, error, *rest = _cells(r, COLUMNS[: -len(_SPECIAL)])
        name = names[r.series].removesuffix("-" + r.variant) + _MARKS[r.variant]
        table.add_row(name, percent, seed, f"{accuracy} ± {error}" if error else accuracy, *rest)
    marked = {r.variant for r in rows} - {"trained"}
    table.caption = ", ".join(f"{_MARKS[v].strip()} {v.replace('_', ' ')}" for v in sorted(marked)) or None
    return table


def row_line(r: Row) -> str:
    """One finished run in a line."""
    name = "unpruned" if r.method == "none" else f"{r.method} k={r.prune_percent:g} %"
    name += f" l={r.layer}" if r.layer and r.method not in FIXED_PERCENT else ""
    name += "" if r.variant == "trained" else f" {r.variant.replace('_', ' ')}"
    speed = "" if r.samples_per_second is None else f"  {_number(r.samples_per_second)} clips/s"
    memory = "" if r.peak_memory_gib is None else f"  {_number(r.peak_memory_gib)} GiB"
    error = "" if r.accuracy_stderr is None else f" ± {r.accuracy_stderr:.3f}"
    return f"{name:<20} seed {r.seed}  accuracy {r.accuracy:.3f}{error}  {_number(r.kept_tokens)} tokens{speed}{memory}"


def _cells(r: Row | Mean, columns: Sequence[str]) -> list[str]:
    cells = []
    for name in columns:
        value = getattr(r, name)
        if value is None or name in _LEFT:
            cells.append(value or "")
        elif name.startswith("accuracy"):
            cells.append(f"{value:.3f}")
        else:
            cells.append(f"{value:g}" if name in _COUNTS else _number(value))
    return cells


def _number(value: float) -> str:
    """Whole from 1000 on, else about three digits."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _pad(cell: str, width: int, column: str) -> str:
    return cell.ljust(width) if column in _LEFT else cell.rjust(width)
