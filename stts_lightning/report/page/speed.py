"""Tables 6 and 7 beside what a bench measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stts_lightning.report.page.tables import DASH, Grid, number
from stts_lightning.report.published import PublishedTable, recomputed, tokens_per_instance

# The bench's table of each experiment, and what it has beside the columns that both have.
BENCH_TABLES = {"train_throughput": "train", "inference_throughput": "prefill"}
MORE = {"train": (), "prefill": ("decode_ms_per_token", "generate_ms")}
HEADS = {"decode_ms_per_token": "decode, ms a token", "generate_ms": "end to end, ms"}
OURS = ("tokens", "ms", "batches/s", "speed-up over k = 0", "over stock", "peak MiB")


class Bar(NamedTuple):
    """One speed-up; None where nobody has measured it."""

    frames: int  # of the batch
    percent: float
    paper: float | None  # from the cells
    ours: float | None


def speed_grid(table: PublishedTable, bench: Mapping[str, Any] | None, tables: Mapping[int, PublishedTable]) -> Grid:
    """A row a shape and k; `stock` is transformers' own model.

    Args:
        bench: the artifact bench.json; None shows the paper alone.
    """
    name = BENCH_TABLES[table.experiment]
    measured = measurements(bench, name)
    planned = [(row.frames or 0, row.videos, f"{row.percent:g}", row) for row in table.rows]
    extra = [key for key in measured if key not in {(f, v, run) for f, v, run, _ in planned}]
    paper = ["tokens", "tokens, by its formula"] if "tokens" in table.columns else []
    head = ["batch", "k %", *paper, "throughput", "speed-up, printed", "speed-up, from cells"]
    rows = []
    for frames, videos, run, row in planned:
        line = [f"{videos} x {frames // videos}", run]
        if paper:
            formula = tokens_per_instance(frames // videos, videos, row.percent or 0)
            line += [number(row.cells["tokens"], 0), str(formula)]
        ratio = recomputed(table, row, tables)["speedup"]
        line += [number(row.cells["throughput"], 4), _printed(row.printed["speedup"]), number(ratio, 2) + "x"]
        rows.append([*line, *_measured(measured.get((frames, videos, run)), name)])
    for frames, videos, run in extra:
        blank = [DASH] * (len(head) - 2)
        rows.append([f"{videos} x {frames // videos}", run, *blank, *_measured(measured[frames, videos, run], name)])
    caption = f"The paper's table {table.number} beside ours"
    return Grid(caption, [*head, *OURS, *(HEADS[key] for key in MORE[name])], rows, len(head))


def measurements(bench: Mapping[str, Any] | None, name: str) -> dict[tuple[int, int, str], Mapping[str, Any]]:
    """A bench's rows by frames and videos of the batch and run; its shapes read "videos x frames"."""
    found = {}
    for row in (bench or {}).get("tables", {}).get(name, []):
        videos, frames = (int(part) for part in row["shape"].split(" x "))
        found[videos * frames, videos, str(row["run"])] = row
    return found


def bars(table: PublishedTable, bench: Mapping[str, Any] | None, tables: Mapping[int, PublishedTable]) -> list[Bar]:
    """Figure 5's bars of one of its two halves."""
    measured = measurements(bench, BENCH_TABLES[table.experiment])
    found = []
    for row in table.rows:
        if row.percent and row.frames:
            ours = measured.get((row.frames, row.videos, f"{row.percent:g}"), {}).get("over_own_0")
            found.append(Bar(row.frames, row.percent, recomputed(table, row, tables)["speedup"], ours))
    return found


def machine_line(bench: Mapping[str, Any]) -> str:
    """What the bench ran on."""
    machine, settings = bench["machine"], bench["settings"]
    return (
        f"{machine['processor']}, {machine['threads']} threads, device {machine['device']}; model size "
        f"{settings['size']}, {settings['rounds']} rounds; commit {bench['commit']}."
    )


def _measured(row: Mapping[str, Any] | None, name: str) -> list[str]:
    if row is None:
        return [DASH] * (len(OURS) + len(MORE[name]))
    shared: Sequence[str] = [
        str(row["tokens"]),
        number(row["ms"], 0),
        number(1000 / row["ms"], 4),
        _times(row.get("over_own_0")),
        _times(row.get("over_stock")),
        number(row.get("peak_mib"), 0),
    ]
    return [*shared, *(number(row.get(key)) for key in MORE[name])]


def _printed(value: float | None) -> str:
    """As the paper prints it: 1x, 1.30x."""
    return "1x" if value == 1 else _times(value)


def _times(value: float | None) -> str:
    return DASH if value is None else f"{value:.2f}x"
