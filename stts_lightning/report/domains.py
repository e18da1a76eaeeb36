"""The tables of several domains and checkpoints: accuracies, what is kept, and differences with both their errors."""

from __future__ import annotations

import csv
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stts_lightning.config import FIXED_PERCENT
from stts_lightning.report.figures import contact_sheet
from stts_lightning.report.measured import Measured, measured_run, write_measured
from stts_lightning.report.paired import paired_difference
from stts_lightning.report.tables import method_rank
from stts_lightning.runs import Result, RunDir

SUBJECT = "stts_saliency"  # what the others are compared with, where it is there
OF_THE_METHOD = ("prune.", "aux.")  # settings that compare methods on the same ground
SETTLED = 0.95  # of the accuracy at the end
SHEET = ("stts", "heuristic", SUBJECT)  # on the same frames


class Swept(NamedTuple):
    """The finished runs of one sweep by name; ``folder`` holds a folder a run."""

    domain: str
    checkpoint: int
    folder: Path
    results: Mapping[str, Result]


class Cell(NamedTuple):
    """The runs that differ in their checkpoint and seed alone."""

    domain: str
    percent: float
    method: str
    layer: int
    settings: str


@dataclass(frozen=True)
class Average:
    """Accuracy, 0-1, over the runs of a cell; ``stderr_runs`` is of their mean, None for one run.

    ``kept`` are the shares of what the windows after frame 0 show.
    """

    domain: str
    percent: float
    method: str
    layer: int
    settings: str
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
    one: str  # a method, and its settings if they are not the experiment's own
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


def gather(runs: Iterable[Measured]) -> dict[Cell, list[Measured]]:
    cells: dict[Cell, list[Measured]] = {}
    for run in runs:
        cells.setdefault(Cell(run.domain, run.percent, run.method, run.layer, run.settings), []).append(run)
    return dict(sorted(cells.items(), key=lambda item: _order(item[0])))


def averages(cells: Mapping[Cell, Sequence[Measured]]) -> list[Average]:
    rows = []
    for cell, runs in cells.items():
        accuracies = [run.accuracy for run in runs]
        kept = {kind: statistics.mean(run.kept[kind] for run in runs) for kind in runs[0].kept}
        rows.append(Average(*cell, len(runs), statistics.mean(accuracies), _stderr(accuracies), kept))
    return rows


def gaps(cells: Mapping[Cell, Sequence[Measured]], subject: str = SUBJECT) -> list[Gap]:
    """The subject minus every other method of its domain and percentage, and minus the two ends.

    What they were trained and tested on is the same. With the experiment's own settings of the method it is compared
    with the others in whatever settings they have of theirs; with other ones, with those that have the same, and with
    itself as it is.
    """
    found, named = [], _names(cells)
    for one, other in itertools.product(cells, cells):
        if one.method == subject and _comparable(one, other):
            mine, theirs = ({(run.checkpoint, run.seed): run for run in cells[cell]} for cell in (one, other))
            shared = sorted(mine.keys() & theirs.keys())
            if shared:
                pairs = [(mine[key], theirs[key]) for key in shared]
                found.append(_gap(one, named(one), named(other), pairs))
    return found


def _comparable(one: Cell, other: Cell) -> bool:
    (mine, my_ground), (theirs, their_ground) = _own_and_ground(one.settings), _own_and_ground(other.settings)
    if one == other or one.domain != other.domain or my_ground != their_ground:
        return False
    same_place = other.method in FIXED_PERCENT or (one.percent, one.layer) == (other.percent, other.layer)
    fair = bool(mine) and not theirs if other.method == one.method else not mine or mine == theirs
    return same_place and fair


def _own_and_ground(settings: str) -> tuple[list[str], list[str]]:
    """Which of the settings are the method's own, and which change the model, its data or what it is tested on."""
    parts = settings.split("; ") if settings else []
    own = [part for part in parts if part.startswith(OF_THE_METHOD)]
    return own, [part for part in parts if part not in own]


def _gap(cell: Cell, one: str, other: str, pairs: Sequence[tuple[Measured, Measured]]) -> Gap:
    difference = paired_difference([(mine.answers, theirs.answers) for mine, theirs in pairs])
    by_checkpoint: dict[int, list[float]] = {}
    for (mine, _), value in zip(pairs, difference.by_seed, strict=True):
        by_checkpoint.setdefault(mine.checkpoint, []).append(value)
    return Gap(
        cell.domain,
        cell.percent,
        one,
        other,
        len(pairs),
        difference.mean,
        difference.stderr,
        _stderr(difference.by_seed),
        tuple(statistics.mean(values) for values in by_checkpoint.values()),
    )


def measured_runs(swept: Iterable[Swept], settings: str) -> list[Measured]:
    """The finished runs of some sweeps, all of the same settings."""
    return [
        measured_run(sweep.domain, sweep.checkpoint, settings, result, sweep.folder / name)
        for sweep in swept
        for name, result in sweep.results.items()
    ]


def write_domains(swept: Sequence[Swept], settings: str, out: Path) -> list[Path]:
    """measured.csv, a line a run; the tables of them; and of each domain a contact sheet of the first run."""
    runs = measured_runs(swept, settings)
    out.mkdir(parents=True, exist_ok=True)
    write_measured(runs, out / "measured.csv")
    files = [out / "measured.csv", *write_tables(runs, out)]
    folders: dict[tuple[str, float, str], Path] = {}
    for sweep in swept:
        for name, result in sweep.results.items():
            folders.setdefault((sweep.domain, result.prune_percent, result.method), sweep.folder / name)
    for domain, percent in [(domain, percent) for domain, percent, method in folders if method == SUBJECT]:
        places = {method: folders[domain, percent, method] for method in SHEET if (domain, percent, method) in folders}
        decisions = {m: RunDir(folder).decisions for m, folder in places.items() if RunDir(folder).decisions.is_file()}
        if decisions:
            files.append(out / f"contact_sheet-{domain}-k{percent:g}.png")
            contact_sheet(decisions, files[-1])
    return files


def write_tables(runs: Iterable[Measured], out: Path) -> list[Path]:
    """tables.md, cells.csv and gaps.csv."""
    cells = gather(runs)
    rows, differences = averages(cells), gaps(cells)
    files = [out / "tables.md", out / "cells.csv", out / "gaps.csv"]
    files[0].write_text(f"# {out.name}\n\n{_page(cells, rows, differences)}\n", encoding="utf-8")
    _write_csv(files[1], [_flat(row) for row in rows])
    told = [asdict(gap) | {"by_checkpoint": " ".join(map(str, gap.by_checkpoint))} for gap in differences]
    _write_csv(files[2], told)
    return files


def tables(runs: Iterable[Measured]) -> str:
    """What tables.md says of some runs."""
    cells = gather(runs)
    return _page(cells, averages(cells), gaps(cells))


def _page(cells: Mapping[Cell, Sequence[Measured]], rows: Sequence[Average], differences: Sequence[Gap]) -> str:
    parts = [accuracy_table(rows), kept_table(rows), curve_table(cells), gap_table(differences)]
    return "\n\n".join(part for part in parts if part)


def accuracy_table(rows: Sequence[Average]) -> str:
    """A column a domain and percentage; the two ends stand in every column of their domain."""
    columns = list(dict.fromkeys((r.domain, r.percent) for r in rows if r.method not in FIXED_PERCENT))
    by_line: dict[tuple[str, int, str], dict[tuple[str, float], str]] = {}
    names, named = {}, _names(rows)
    for r in rows:
        fills = [c for c in columns if c[0] == r.domain] if r.method in FIXED_PERCENT else [(r.domain, r.percent)]
        told = f"{r.accuracy:.3f}" + ("" if r.stderr_runs is None else f" ± {r.stderr_runs:.3f}") + f" ({r.runs})"
        names[r.method, r.layer, r.settings] = named(r)
        by_line.setdefault((r.method, r.layer, r.settings), {}).update(dict.fromkeys(fills, told))
    head = ["method", *(f"{domain}, k = {percent:g}" for domain, percent in columns)]
    lines = sorted(by_line, key=lambda line: (method_rank(line[0]), line[1:]))
    body = [[names[line], *(by_line[line].get(column, "") for column in columns)] for line in lines]
    return "Accuracy, mean ± standard error over the runs (their number)\n\n" + _markdown(head, body)


def kept_table(rows: Sequence[Average]) -> str:
    kinds = list(dict.fromkeys(kind for r in rows for kind in r.kept))
    pruned = [r for r in rows if r.kept and r.method not in FIXED_PERCENT]
    named = _names(pruned)
    body = [
        [r.domain, f"{r.percent:g}", named(r)] + [f"{r.kept[kind]:.2f}" if kind in r.kept else "" for kind in kinds]
        for r in pruned
    ]
    return "Kept of what the windows after frame 0 show\n\n" + _markdown(["domain", "k %", "method", *kinds], body)


def curve_table(cells: Mapping[Cell, Sequence[Measured]]) -> str:
    """Empty where no run was evaluated on its way."""
    body, named = [], _names(cells)
    for cell, runs in cells.items():
        steps = [step for run in runs if (step := run.steps_to(SETTLED)) is not None]
        if steps:
            mean = f"{statistics.mean(steps):.0f}"
            body.append([cell.domain, f"{cell.percent:g}", named(cell), mean, ", ".join(map(str, steps))])
    if not body:
        return ""
    title = f"Steps to {SETTLED:.0%} of the last accuracy, the scorer's warm-up counted"
    return f"{title}\n\n" + _markdown(["domain", "k %", "method", "steps", "by run"], body)


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


def _names(rows: Iterable[Cell | Average]) -> Callable[[Cell | Average], str]:
    """Names of rows: the layer is told where a method has several with the same settings."""
    layers: dict[tuple[str, str], set[int]] = {}
    for row in rows:
        layers.setdefault((row.method, row.settings), set()).add(row.layer)

    def named(row: Cell | Average) -> str:
        layer = f"l = {row.layer}" if len(layers[row.method, row.settings]) > 1 else ""
        return ", ".join(part for part in (row.method, layer, row.settings) if part)

    return named


def _stderr(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _order(cell: Cell) -> tuple[Any, ...]:
    return cell.domain, cell.percent, method_rank(cell.method), cell.layer, cell.settings
