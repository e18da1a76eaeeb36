"""The benchmark's results as JSON, Markdown and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stts_lightning.runs import write_json

TITLES = {
    "train": "Train step: forward, backward, clipping, AdamW",
    "methods": "Train step at k = 50 by method",
    "prefill": "Prefill, and the tokens after it",
    "overhead": "What pruning itself costs, in ms and as a share of its step",
    "layouts": "Vision tower and connector, forward and backward: packed rows against flat",
    "packing": "How full packed sequences are, by what is counted",
    "decoders": "Decoding one clip",
    "loader": "The loader alone",
    "growth": "Train step of one video; slope 1 grows as the frames",
}
COLORS = {"stock": "#999999", "0": "#4c72b0", "30": "#dd8452", "40": "#c44e52", "50": "#55a868"}


def write_bench(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write bench.json, bench.md and, where there is something to draw, bench.png."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "bench.json", folder / "bench.md"]
    write_json(files[0], results)
    files[1].write_text(page(results), encoding="utf-8")
    if any(name in results["tables"] for name in ("train", "prefill", "growth")):
        files.append(folder / "bench.png")
        _plot(results["tables"], files[2])
    return files


def page(results: dict[str, Any]) -> str:
    """All tables as Markdown, with the machine and the versions above them."""
    found, settings = results["machine"], results["settings"]
    where = f"{found['processor']}, {found['threads']} threads, {found['device']}"
    how = f"compiled {settings['compiled']}, activation checkpointing {settings['checkpointing']}"
    lines = [
        f"Machine: {where}; peak {found['peak_tflops']:.3g} TFLOP/s ({found['peak_from']}).",
        f"Model: {settings['size']}, {how}; {settings['rounds']} rounds side by side.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + ".",
        f"Commit: {results['commit']}.",
    ]
    for name, rows in results["tables"].items():
        if rows:
            lines += ["", f"## {TITLES[name]}", "", markdown_table(rows)]
    return "\n".join(lines) + "\n"


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """Columns in the order in which the rows bring them."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(column.replace("_", " ") for column in columns) + " |"]
    lines.append("|" + "|".join("---" if isinstance(rows[0].get(c), str) else "---:" for c in columns) + "|")
    lines += ["| " + " | ".join(_cell(column, row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if column in ("share", "padding_share", "mfu", "of_bound"):
        return f"{value:.1%}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _plot(tables: dict[str, list[dict[str, Any]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    bars = [name for name in ("train", "prefill") if name in tables]
    width = len(bars) + ("growth" in tables)
    figure, axes = plt.subplots(1, width, figsize=(4.6 * width, 3.6), squeeze=False)
    for axis, name in zip(axes[0], bars, strict=False):
        _bars(axis, tables[name])
        axis.set_title(TITLES[name].split(":")[0].split(",")[0])
    if "growth" in tables:
        _lines(axes[0][-1], tables["growth"])
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bars(axis: Any, rows: list[dict[str, Any]]) -> None:
    """Speed-up over our own unpruned model; a dash is what the FLOPs allow."""
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    runs = list(dict.fromkeys(row["run"] for row in rows))
    for i, run in enumerate(runs):
        own = [row for row in rows if row["run"] == run]
        places = [shapes.index(row["shape"]) + (i - (len(runs) - 1) / 2) * 0.16 for row in own]
        label = run if run == "stock" else f"k = {run} %"
        axis.bar(places, [row["over_own_0"] for row in own], 0.14, color=COLORS.get(run), label=label)
        axis.hlines(
            [row["flop_bound"] for row in own], [p - 0.07 for p in places], [p + 0.07 for p in places], color="black"
        )
    axis.set_xticks(range(len(shapes)), [f"{shape} frames" for shape in shapes])
    axis.set_ylabel("times as fast as k = 0 (line: FLOP bound)")
    axis.legend(fontsize=7)


def _lines(axis: Any, rows: list[dict[str, Any]]) -> None:
    for run in dict.fromkeys(row["run"] for row in rows):
        own = [row for row in rows if row["run"] == run]
        axis.plot([r["frames"] for r in own], [r["ms"] for r in own], "o-", color=COLORS.get(run), label=f"k = {run} %")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("frames")
    axis.set_ylabel("ms a train step")
    axis.set_title("Growth")
    axis.legend(fontsize=7)
