"""The page's tables as text: the paper's cells beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stts_lightning.benchmark.averages import IMAGE, LONG, MULTI_IMAGE, SHORT
from stts_lightning.report.collect import Run
from stts_lightning.report.means import Mean
from stts_lightning.report.mlflow_runs import BENCHMARK, BENCHMARK_ERROR
from stts_lightning.report.page.experiments import Line, with_ours
from stts_lightning.report.published import (
    Cells,
    PublishedTable,
    averages,
    recomputed,
    verdict,
)

DASH = "–"
NAMES = {"short": "Short", "long": "Long", "average": "Average", "image": "Image", "multi_image": "Multi-image"}
OURS = ("accuracy %", "± questions", "± seeds", "seeds", "frames", "vision tokens", "clips/s", "GiB")


@dataclass(frozen=True)
class Grid:
    """A table of text; ``split`` is the column at which ours begins."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    split: int | None = None


def number(value: float | None, decimals: int = 1, scale: float = 1.0) -> str:
    return DASH if value is None else f"{value * scale:.{decimals}f}"


def accuracy_grid(
    planned: Sequence[Line],
    means: Sequence[Mean],
    table: PublishedTable | None,
    tables: Mapping[int, PublishedTable],
    data: str,
) -> Grid:
    """A row a line of the paper or a key of ours: the paper's averages, printed and from its cells, then ours."""
    pairs = with_ours(planned, means)
    printed = table.printed if table else []
    layers = len({mean.key.layer for mean in means}) > 1 or any(line.layer is not None for line in planned)
    head = ["", "k %", *(["l"] if layers else [])]
    for name in printed:
        head += [f"{NAMES[name]}, printed", f"{NAMES[name]}, from cells"]
    split = len(head)
    rows = []
    for line, mean in pairs:
        row = [line.label, DASH if line.percent is None else f"{line.percent:g}"]
        if layers:
            layer = mean.key.layer if mean else line.layer
            row.append(DASH if layer is None or line.method == "none" else str(layer))
        found: Cells = recomputed(table, line.published, tables) if table and line.published else {}
        for name in printed:
            row += [number(line.published.printed[name] if line.published else None), number(found.get(name), 2)]
        rows.append([*row, *_ours(mean)])
    paper = f"The paper's table {table.number} beside ours" if table else "Ours"
    return Grid(f"{paper}; ours on {data}", [*head, *OURS], rows, split)


def _ours(mean: Mean | None) -> list[str]:
    if mean is None:
        return [DASH] * len(OURS)
    frames = sorted({run.params.get("video.max_frames", DASH) for run in mean.runs})
    return [
        number(mean.accuracy, 2, 100),
        number(mean.stderr_questions, 2, 100),
        number(mean.stderr_seeds, 2, 100),
        str(len(mean.runs)),
        ", ".join(frames),
        number(mean.metric("prune/kept_tokens"), 0),
        number(mean.metric("train/samples_per_second")),
        number(mean.metric("train/peak_memory_gib"), 2),
    ]


def benchmark_grid(
    planned: Sequence[Line], means: Sequence[Mean], table: PublishedTable, hosts: Mapping[str, Sequence[Run]]
) -> Grid:
    """Cell by cell: a row of the paper, below it ours where a run was evaluated on any of the benchmarks.

    Args:
        hosts: the runs in which we asked other models, oldest first, by the models' names in conf/host/.
    """
    columns = _benchmarks(table)
    rows = []
    seen = set()
    for line, mean in with_ours(planned, means):
        name = line.label + (f", {line.percent:g} %" if line.percent else "")
        if line.published is not None and id(line.published) not in seen:
            seen.add(id(line.published))
            cells = [number(line.published.cells.get(column)) for column in columns]
            rows.append([name, "paper", *cells, *(number(line.published.printed[key]) for key in table.printed)])
        metrics = mean.metrics("") if mean else _newest_of_each(hosts.get(line.model or "", ()))
        ours = benchmark_cells(metrics)
        if any(column in ours for column in columns):
            averages = _averages(ours, table)
            cells = [_with_error(metrics, column) for column in columns]
            rows.append([name, "ours", *cells, *(number(averages.get(key), 2) for key in table.printed)])
    head = ["", "whose", *columns, *(NAMES[key] for key in table.printed)]
    return Grid(f"The benchmarks of table {table.number}, accuracy in %", head, rows)


def other_grid(means: Sequence[Mean], label: Mapping[object, str], table: PublishedTable) -> Grid | None:
    """What ours was evaluated on that the paper's table has no column for, such as the embedded set's images."""
    known = _benchmarks(table)
    names = sorted({name for mean in means for name in benchmark_cells(mean.metrics("")) if name not in known})
    counts = {mean.key: mean.metrics("images/") for mean in means}
    counted = sorted({name for found in counts.values() for name in found})
    if not names and not counted:
        return None
    rows = []
    for mean in means:
        told = [_with_error(mean.metrics(""), name) for name in names]
        rows.append([label[mean.key], *told, *(number(counts[mean.key].get(name), 0) for name in counted)])
    return Grid("Ours alone, accuracy in %", ["", *names, *(name.replace("_", " ") for name in counted)], rows)


def _newest_of_each(runs: Sequence[Run]) -> dict[str, float]:
    """The newest number of each benchmark, with its own error: benchmarks may be asked one by one."""
    found: dict[str, float] = {}
    for run in runs:
        for name in benchmark_cells(run.metrics):
            found.pop(BENCHMARK_ERROR + name, None)
        found |= run.metrics
    return found


def benchmark_cells(metrics: Mapping[str, float]) -> Cells:
    """Accuracy in % by benchmark, of a run that was evaluated on some."""
    found = {key.removeprefix(BENCHMARK): value for key, value in metrics.items() if key.startswith(BENCHMARK)}
    return {name: 100 * value for name, value in found.items()}


def _benchmarks(table: PublishedTable) -> Sequence[str]:
    """Where a table prints averages alone, they are over the benchmarks of table 1."""
    return table.columns or (*SHORT, *LONG)


def _with_error(metrics: Mapping[str, float], name: str) -> str:
    value, error = metrics.get(BENCHMARK + name), metrics.get(BENCHMARK_ERROR + name)
    return number(value, 1, 100) + ("" if value is None or error is None else f" ± {number(error, 1, 100)}")


def _averages(cells: Cells, table: PublishedTable) -> Cells:
    """As the paper takes them, of groups that are whole: part of a group would be another average."""
    groups: dict[str, Sequence[str]] = {"short": SHORT, "long": LONG, "average": (*SHORT, *LONG)}
    if table.rule == "image":
        groups = {"image": IMAGE, "multi_image": MULTI_IMAGE, "average": (*IMAGE, *MULTI_IMAGE)}
    found = averages(cells, table.rule)
    return {name: found[name] for name in table.printed if all(column in cells for column in groups[name])}


def category_grid(means: Sequence[Mean], label: Mapping[object, str]) -> Grid | None:
    """Ours by category of question; None where the runs have none."""
    prefix = "eval/accuracy/"
    by_key = {mean.key: mean.metrics(prefix) for mean in means}
    names = sorted({name for values in by_key.values() for name in values})
    if not names:
        return None
    rows = [[label[key], *(number(values.get(name), 2, 100) for name in names)] for key, values in by_key.items()]
    return Grid("Accuracy in % by category", ["", *names], rows)


def disagreements(table: PublishedTable, tables: Mapping[int, PublishedTable]) -> list[str]:
    """A sentence for each printed number that is not what the cells round to."""
    speed = table.rule == "speedup"
    decimals = 2 if speed else 1
    sentences = []
    for row in table.rows:
        cells = recomputed(table, row, tables)
        for key, computed in cells.items():
            printed = row.printed[key]
            found = verdict(printed, computed, decimals=decimals, slack=0.0 if speed else 0.05)
            if found not in ("rounding", "differs"):
                continue
            name = f"{row.name} with {row.frames} frames" if speed else row.name
            what = "speed-up" if speed else "overall average" if key == "average" else f"{NAMES[key].lower()} average"
            tail = "which the cells' own rounding can explain" if found == "rounding" else "which no rounding explains"
            sentences.append(
                f"Table {table.number}, {name}: the {what} is printed as {number(printed, decimals)}, "
                f"its cells give {number(computed, decimals + 1)}, {tail}."
            )
    return sentences
