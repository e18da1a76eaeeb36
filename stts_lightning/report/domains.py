"""The tables of several domains and checkpoints: accuracies, what is kept, and differences with both their errors."""

from __future__ import annotations

import csv
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stts_lightning.config import FIXED_PERCENT
from stts_lightning.report.figures import contact_sheet
from stts_lightning.report.paired import Answers, paired_difference, read_answers
from stts_lightning.report.tables import method_rank
from stts_lightning.runs import Result, RunDir

SUBJECT = "stts_saliency"  # what the others are compared with, where it is there
SHEET = ("stts", "heuristic", SUBJECT)  # on the same frames


class Swept(NamedTuple):
    """The finished runs of one sweep by name; ``folder`` holds a folder a run."""

    domain: str
    checkpoint: int
    folder: Path
    results: Mapping[str, Result]


class Place(NamedTuple):
    """One run: its sweep, and its folder in it."""

    checkpoint: int
    seed: int
    result: Result
    folder: Path


class Cell(NamedTuple):
    """The runs that differ in their checkpoint and seed alone."""

    domain: str
    percent: float
    method: str
    layer: int


@dataclass(frozen=True)
class Average:
    """Accuracy, 0-1, over the runs of a cell; ``stderr_runs`` is of their mean, None for one run.

    ``kept`` are the shares of what the windows after frame 0 show.
    """

    domain: str
    percent: float
    method: str
    layer: int
    runs: int
    accuracy: float
    stderr_runs: float | None
    kept: dict[str, float]


@dataclass(frozen=True)
class Gap:
    """Accuracy of one method minus that of another, over the checkpoints and seeds that both have.

    ``stderr_videos`` is of the mean over the runs, clustered by video; ``stderr_runs`` of the mean over the runs;
    ``by_checkpoint`` is averaged over the seeds of each.
    """

    domain: str
    percent: float
    one: str
    other: str
    runs: int
    difference: float
    stderr_videos: float | None
    stderr_runs: float | None
    by_checkpoint: tuple[float, ...]

    @property
    def errors(self) -> list[float]:
        return [error for error in (self.stderr_videos, self.stderr_runs) if error is not None]

    @property
    def standing(self) -> str:
        """By more than two standard errors, both of them."""
        if not self.errors or abs(self.difference) <= 2 * max(self.errors):
            return "level"
        return "above" if self.difference > 0 else "below"


def gather(swept: Iterable[Swept]) -> dict[Cell, list[Place]]:
    cells: dict[Cell, list[Place]] = {}
    for sweep in swept:
        for name, result in sweep.results.items():
            cell = Cell(sweep.domain, result.prune_percent, result.method, result.layer)
            cells.setdefault(cell, []).append(Place(sweep.checkpoint, result.seed, result, sweep.folder / name))
    return dict(sorted(cells.items(), key=lambda item: _order(item[0])))


def averages(cells: Mapping[Cell, Sequence[Place]]) -> list[Average]:
    rows = []
    for cell, places in cells.items():
        accuracies = [place.result.accuracy for place in places]
        kinds = places[0].result.kept_shares
        kept = {kind: statistics.mean(place.result.kept_shares[kind] for place in places) for kind in kinds}
        rows.append(Average(*cell, len(places), statistics.mean(accuracies), _stderr(accuracies), kept))
    return rows


def gaps(cells: Mapping[Cell, Sequence[Place]], subject: str = SUBJECT) -> list[Gap]:
    """The subject minus every other method of its domain and percentage, and minus the two ends."""
    found = []
    for one, other in itertools.product(cells, cells):
        ends = other.method in FIXED_PERCENT
        same_place = one.domain == other.domain and (ends or (one.percent, one.layer) == (other.percent, other.layer))
        if one.method != subject or other.method == subject or not same_place:
            continue
        mine, theirs = ({(p.checkpoint, p.seed): p for p in cells[cell]} for cell in (one, other))
        shared = sorted(mine.keys() & theirs.keys())
        if shared:
            pairs = [(_answers(mine[key]), _answers(theirs[key])) for key in shared]
            difference = paired_difference(pairs)
            by_checkpoint: dict[int, list[float]] = {}
            for (checkpoint, _), value in zip(shared, difference.by_seed, strict=True):
                by_checkpoint.setdefault(checkpoint, []).append(value)
            found.append(
                Gap(
                    one.domain,
                    one.percent,
                    one.method,
                    other.method,
                    len(shared),
                    difference.mean,
                    difference.stderr,
                    _stderr(difference.by_seed),
                    tuple(statistics.mean(values) for values in by_checkpoint.values()),
                )
            )
    return found


def write_domains(swept: Sequence[Swept], out: Path) -> list[Path]:
    """tables.md, cells.csv, gaps.csv and, of each domain, a contact sheet of the first checkpoint and seed."""
    cells = gather(swept)
    rows, differences = averages(cells), gaps(cells)
    out.mkdir(parents=True, exist_ok=True)
    files = [out / "tables.md", out / "cells.csv", out / "gaps.csv"]
    text = f"# {out.name}\n\n{accuracy_table(rows)}\n\n{kept_table(rows)}\n\n{gap_table(differences)}\n"
    files[0].write_text(text, encoding="utf-8")
    _write_csv(files[1], [_flat(row) for row in rows])
    told = [asdict(gap) | {"by_checkpoint": " ".join(map(str, gap.by_checkpoint))} for gap in differences]
    _write_csv(files[2], told)
    for domain, percent in dict.fromkeys((cell.domain, cell.percent) for cell in cells if cell.method == SUBJECT):
        decisions = {}
        for method in SHEET:
            places = [p for cell in cells if cell[:3] == (domain, percent, method) for p in cells[cell]]
            if places and RunDir(places[0].folder).decisions.is_file():
                decisions[method] = RunDir(places[0].folder).decisions
        if decisions:
            files.append(out / f"contact_sheet-{domain}-k{percent:g}.png")
            contact_sheet(decisions, files[-1])
    return files


def accuracy_table(rows: Sequence[Average]) -> str:
    """A column a domain and percentage; the two ends stand in every column of their domain."""
    columns = list(dict.fromkeys((r.domain, r.percent) for r in rows if r.method not in FIXED_PERCENT))
    by_line: dict[tuple[str, int], dict[tuple[str, float], str]] = {}
    for r in rows:
        fills = [c for c in columns if c[0] == r.domain] if r.method in FIXED_PERCENT else [(r.domain, r.percent)]
        told = f"{r.accuracy:.3f}" + ("" if r.stderr_runs is None else f" ± {r.stderr_runs:.3f}") + f" ({r.runs})"
        by_line.setdefault((r.method, r.layer), {}).update(dict.fromkeys(fills, told))
    several = len({layer for _, layer in by_line}) > 1
    names = {line: line[0] + (f", l = {line[1]}" if several else "") for line in by_line}
    head = ["method", *(f"{domain}, k = {percent:g}" for domain, percent in columns)]
    lines = sorted(by_line, key=lambda line: (method_rank(line[0]), line[1]))
    body = [[names[line], *(by_line[line].get(column, "") for column in columns)] for line in lines]
    return "Accuracy, mean ± standard error over the runs (their number)\n\n" + _markdown(head, body)


def kept_table(rows: Sequence[Average]) -> str:
    kinds = list(dict.fromkeys(kind for r in rows for kind in r.kept))
    body = [
        [r.domain, f"{r.percent:g}", r.method, *(f"{r.kept[kind]:.2f}" if kind in r.kept else "" for kind in kinds)]
        for r in rows
        if r.kept and r.method not in FIXED_PERCENT
    ]
    return "Kept of what the windows after frame 0 show\n\n" + _markdown(["domain", "k %", "method", *kinds], body)


def gap_table(differences: Sequence[Gap]) -> str:
    head = [
        "domain",
        "k %",
        "difference of",
        "mean",
        "SE over videos",
        "SE over runs",
        "by checkpoint",
        "runs",
        "by 2 SE",
    ]
    body = []
    for gap in differences:
        errors = ["" if error is None else f"{error:.3f}" for error in (gap.stderr_videos, gap.stderr_runs)]
        checkpoints = ", ".join(f"{value:+.3f}" for value in gap.by_checkpoint)
        between = f"{gap.one} - {gap.other}"
        mean = f"{gap.difference:+.3f}"
        body.append([gap.domain, f"{gap.percent:g}", between, mean, *errors, checkpoints, str(gap.runs), gap.standing])
    return "Paired differences\n\n" + _markdown(head, body)


def _markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body))


def _flat(row: Average) -> dict[str, Any]:
    values = asdict(row)
    return {**values, **{f"kept_{kind}": share for kind, share in values.pop("kept").items()}, "kept": None}


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "kept"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _answers(place: Place) -> Answers:
    return read_answers(place.folder)


def _stderr(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _order(cell: Cell) -> tuple[Any, ...]:
    return cell.domain, cell.percent, method_rank(cell.method), cell.layer
