"""`make bench`: every table on this machine, in one run."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from stts_lightning.bench.case import Shape
from stts_lightning.bench.inputs import input_tables
from stts_lightning.bench.measure import keep_freed_memory, machine
from stts_lightning.bench.packing import packing_table
from stts_lightning.bench.steps import Bench
from stts_lightning.bench.tables import (
    Row,
    growth_table,
    layout_table,
    methods_table,
    overhead_table,
    prefill_table,
    train_table,
)
from stts_lightning.bench.write import write_bench
from stts_lightning.calibrate import calibrate
from stts_lightning.config import load_config
from stts_lightning.runs import git_commit

TABLES = ("train", "methods", "prefill", "overhead", "layouts", "packing", "inputs", "growth")
WITHOUT_MODEL = {"packing", "inputs"}
VERSIONS = ("torch", "transformers", "lightning", "numpy", "av", "decord", "triton")
SIZES = {"4b": ((2, 64), (1, 256)), "small": ((2, 64), (1, 256))}
GROWTH = (16, 32, 64, 128, 256, 512)


def bench(
    folder: Path,
    *,
    size: str | None = None,
    rounds: int = 5,
    only: Collection[str] = TABLES,
    shapes: Collection[tuple[int, int]] | None = None,
    growth: Collection[int] = GROWTH,
    compiled: bool | None = None,
    checkpointing: str | None = None,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> dict[str, Any]:
    """Measure and write bench.json, bench.md and bench.png into ``folder``.

    Args:
        size: of the model, see `molmo2.shapes`; None takes the real one on a GPU and the small one elsewhere.
        rounds: repeats of everything.
        only: which of `TABLES`; ``overhead`` needs train or prefill beside it.
        shapes: (videos, frames) of the train and prefill tables.
        compiled, checkpointing: as in the configuration's backbone; None compiles and recomputes all on a GPU.

    Raises:
        ValueError: a table that does not exist.
    """
    if unknown := sorted(set(only) - set(TABLES)):
        raise ValueError(f"--only names {', '.join(unknown)}; there are {', '.join(TABLES)}.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    size = size or ("4b" if on_gpu else "small")
    compiled = on_gpu if compiled is None else compiled
    checkpointing = ("all" if on_gpu else "none") if checkpointing is None else checkpointing
    measured = [Shape(size, videos, frames) for videos, frames in shapes or SIZES[size]]

    keep_freed_memory()
    found = machine(device)
    tables: dict[str, list[Row]] = {}
    results = {
        "machine": found,
        "versions": _versions(),
        "commit": git_commit(),
        "settings": {"size": size, "rounds": rounds, "compiled": compiled, "checkpointing": checkpointing},
        "tables": tables,
    }
    if set(only) - WITHOUT_MODEL:
        model = Bench(size, device, compiled=compiled, checkpointing=checkpointing)
        tables.update(_model_tables(model, only, measured, growth, found["peak_tflops"], rounds, say))
    if "packing" in only:
        tables["packing"] = packing_table()
    if "inputs" in only:
        say("decoders and loader")
        tables.update(input_tables(rounds))
        _add_model_rates(tables)
    write_bench(results, folder)
    return results


def _model_tables(
    model: Bench,
    only: Collection[str],
    shapes: Sequence[Shape],
    growth: Collection[int],
    peak_tflops: float,
    rounds: int,
    say: Callable[[str], None],
) -> dict[str, list[Row]]:
    """Everything with a model in it: training first, for the weights are cast down before inference."""
    tables: dict[str, list[Row]] = {name: [] for name in TABLES if name in only and name not in WITHOUT_MODEL}
    if "train" in only:
        tables["train"] = train_table(model, shapes, peak_tflops, rounds, say)
        if "overhead" in only:
            tables["overhead"] += overhead_table(model, "train", shapes, rounds, tables["train"], say)
    if "methods" in only:
        tables["methods"] = methods_table(model, shapes, rounds, say)
    if "layouts" in only:
        tables["layouts"] = layout_table(model, shapes[0], rounds, say)
    if "growth" in only:
        tables["growth"] = growth_table(model, sorted(growth), max(1, rounds // 2), say)
    if "prefill" in only:
        model.to_inference()
        tables["prefill"] = prefill_table(model, shapes, peak_tflops, rounds, say)
        if "overhead" in only:
            tables["overhead"] += overhead_table(model, "prefill", shapes, rounds, tables["prefill"], say)
    return tables


def _add_model_rates(tables: dict[str, list[Row]]) -> None:
    """Beside each way to decode, how many workers keep ahead of the model of this run at k = 50; beside the loader,
    how many clips a second the model trains on whose clips it loads, on one thread."""
    config = load_config(["prune.percent=50", "trainer.num_threads=1"])
    seconds = calibrate(config)["step_s"][1]
    for row in tables["loader"]:
        row["model_clips_per_s"] = 1 / seconds
    steps = [row for row in tables.get("train", []) if row["run"] == "50"]
    for row in tables["decoders"]:
        if steps:
            videos = int(steps[0]["shape"].split()[0])
            row["workers_for_model"] = videos / steps[0]["ms"] * row["ms_median"]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found
