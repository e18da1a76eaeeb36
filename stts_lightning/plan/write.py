"""The plan as a table and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from stts_lightning.config import Config
from stts_lightning.plan.main import GIB, Plan, remedy
from stts_lightning.runs import write_json


def page(made: Plan, config: Config) -> str:
    """Everything about one plan, as Markdown that reads as text too."""
    return "\n".join([_head(made), "", _memory(made), "", _verdict(made, config), "", _work(made), "", _notes(made)])


def _head(made: Plan) -> str:
    count = made.parameters
    width, autocast = made.compute
    weights = f"weights {'gathered ' * (made.strategy == 'fsdp2')}in {'bfloat16' if width == 2 else 'float32'}"
    weights += ", products by autocast" * autocast
    return (
        f"{made.backbone}: {count.total:,} parameters (language model {count.language:,}, ViT and projector "
        f"{count.vision:,}, scorer {count.scorer:,}).\n"
        f"{made.gpus} GPU{'s' * (made.gpus > 1)}, {made.strategy}, {made.precision}: {weights}."
    )


def _memory(made: Plan) -> str:
    state = made.state
    constant = {
        "weights": state.weights,
        "gradients": state.gradients,
        "optimizer: float32 weights": state.master,
        "optimizer: AdamW's moments": state.moments,
        "communication, gathered weights": state.buffers,
    }
    rows = {name: [size] * len(made.columns) for name, size in constant.items()}
    rows["batch"] = [column.activations.batch for column in made.columns]
    rows["activations kept for the backward pass"] = [column.activations.saved for column in made.columns]
    rows["activations beyond that, at the worst"] = [column.activations.working for column in made.columns]
    rows["CUDA, cuBLAS, NCCL (assumed)"] = [made.machine.reserve_gib * GIB] * len(made.columns)
    rows["**peak**"] = [column.peak for column in made.columns]
    cells = [(name, *(f"{size / GIB:.2f}" for size in sizes)) for name, sizes in rows.items()]
    if state.host:
        cells.append(("on the host of a node", *[f"{state.host / GIB:.2f}"] * len(made.columns)))
    return table(("GiB on each GPU", *_columns(made)), cells)


def _verdict(made: Plan, config: Config) -> str:
    largest, less = remedy(config, made)
    peak, card = made.columns[-1].peak / GIB, made.machine.card_gib
    size = made.items()[largest] / GIB
    text = f"of {card:g} GiB: {peak:.1f} GiB at the peak, the largest part of it {largest}, {size:.1f} GiB."
    return f"FITS {text}" if made.fits else f"DOES NOT FIT {text} To make it smaller: {less}."


def _work(made: Plan) -> str:
    columns = made.columns
    rows = {
        "clips": [f"{c.samples:,}" for c in columns],
        "ViT patches": [f"{c.patches:,}" for c in columns],
        "vision tokens left": [f"{c.vision_tokens:,}" for c in columns],
        "language model's tokens": [f"{c.tokens:,}" for c in columns],
        "the same with padding": [f"{c.places:,}" for c in columns],
        "PFLOP": [f"{_flops(made, c.work.total) / 1e15:,.1f}" for c in columns],
        "of it computed again": [f"{c.work.recomputed / c.work.total:.0%}" for c in columns],
        "of it on padding": [f"{c.work.padding / c.work.total:.0%}" for c in columns],
        "seconds": [f"{c.step_seconds:,.1f}" for c in columns],
        f"hours for {made.steps:,} steps": [f"{c.hours:,.1f}" for c in columns],
    }
    return table(("a step", *_columns(made)), [(name, *cells) for name, cells in rows.items()])


def _flops(made: Plan, of_micro_batch: float) -> float:
    """Of a whole step."""
    first = made.columns[0]
    return of_micro_batch * first.samples / (first.load.rows * first.load.samples)


def _notes(made: Plan) -> str:
    clip, machine = made.columns[-1].load, made.machine
    speed = (
        f"{machine.utilisation:.0%} of {machine.peak_tflops:,.0f} TFLOP/s a GPU, recomputation and padding included: "
        "assumed, not measured (--utilisation, --step-seconds)"
        if machine.step_seconds is None
        else f"{machine.step_seconds:g} s a step, as given"
    )
    return (
        f"Clips: {clip.clip.frames} frames and {clip.prompt:,} tokens each before pruning, {clip.samples} a sequence.\n"
        f"Speed: {speed}; waiting for data and for other GPUs is not in it.\n"
        "Activations were counted on one micro-batch of the whole model without values, attention in fused kernels; "
        "fragmentation of the GPU's memory is not in them."
    )


def compared(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Several plans in a line each, by the name of their trainer file."""
    cells = [
        (
            name,
            str(row["gpus"]),
            *(f"{row[key] / GIB:.1f}" for key in ("state", "activations", "peak", "host")),
            "fits" if row["fits"] else "does not fit",
            f"{row['hours']:,.0f}",
        )
        for name, row in rows.items()
    ]
    return table(("trainer", "GPUs", "state", "activations", "peak GiB", "host GiB", "", "hours"), cells)


def _columns(made: Plan) -> list[str]:
    return ["unpruned" if column.percent == 0 else f"k = {column.percent:g}" for column in made.columns]


def table(header: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    """Markdown, its columns padded; the first is text, the others numbers."""
    made = Table(box=box.MARKDOWN)
    for i, name in enumerate(header):
        made.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    console = Console(width=200, no_color=True, highlight=False)
    with console.capture() as captured:
        console.print(made)
    lines = (line.rstrip() for line in captured.get().split("\n"))
    return "\n".join(line for line in lines if line)


def write_plan(made: Plan, folder: Path) -> Path:
    """``plan.json``: every number of the plan, memory in bytes."""
    path = folder / "plan.json"
    write_json(path, {**asdict(made), "fits": made.fits, "items": made.items()})
    return path
