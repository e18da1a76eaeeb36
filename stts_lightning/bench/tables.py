"""The tables of the benchmark, each a list of flat rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from stts_lightning.bench.case import LAYERS, TEXT_TOKENS, Shape
from stts_lightning.bench.flops import forward_flops
from stts_lightning.bench.measure import Spread, peak_memory_mib, side_by_side
from stts_lightning.bench.overhead import pruning_overhead
from stts_lightning.bench.steps import DECODED, METHODS, Bench
from stts_lightning.molmo2.vision import encode_videos

Row = dict[str, Any]
Say = Callable[[str], None]
LAYOUT_PERCENTS = (10, 30, 50, 70, 90)


def train_table(bench: Bench, shapes: Sequence[Shape], peak_tflops: float, rounds: int, say: Say) -> list[Row]:
    """A whole train step, AdamW included."""
    rows = []
    for shape in shapes:
        runs = {name: bench.train_step(name, shape) for name in bench.runs}
        spread, memory = _time_and_memory(bench, runs, rounds, f"train {shape.name}", say)
        labels = TEXT_TOKENS[shape.size] // 8
        rows += _compare(bench, shape, spread, memory, peak_tflops, passes=3, labels=labels)
    return rows


def methods_table(bench: Bench, shapes: Sequence[Shape], rounds: int, say: Say) -> list[Row]:
    """A whole train step at k = 50 by method: what learning the scores costs, and by which path."""
    rows = []
    for shape in shapes:
        runs = {method: bench.train_step("50", shape, method=method) for method in METHODS if method != "none"}
        spread = side_by_side(runs, bench.device, rounds, lambda text, s=shape: say(f"methods {s.name}: {text}"))
        for method, took in spread.items():
            over_stts = took.times_as_fast_as(spread["stts"])
            row = {"shape": shape.name, "method": method, "ms": took.median, "low": took.low, "high": took.high}
            rows.append(row | {"over_stts": over_stts})
    return rows


def prefill_table(bench: Bench, shapes: Sequence[Shape], peak_tflops: float, rounds: int, say: Say) -> list[Row]:
    """The first forward pass, and the tokens after it."""
    rows = []
    for shape in shapes:
        runs = {name: bench.prefill(name, shape) for name in bench.runs}
        spread, memory = _time_and_memory(bench, runs, rounds, f"prefill {shape.name}", say)
        # The tokens after the first one, from generations of different lengths in the same round.
        lengths = {f"{name}, {n}": bench.generate(name, shape, n) for name in bench.runs for n in (1, DECODED)}
        whole = side_by_side(lengths, bench.device, rounds, lambda text, s=shape: say(f"generate {s.name}: {text}"))
        new = _compare(bench, shape, spread, memory, peak_tflops, passes=1, labels=1)
        for name, row in zip(bench.runs, new, strict=True):
            short, long = (whole[f"{name}, {n}"] for n in (1, DECODED))
            row["generate_ms"] = long.median
            row["decode_ms_per_token"] = long.later_than(short) / (DECODED - 1)
        rows += new
    return rows


def overhead_table(
    bench: Bench, kind: str, shapes: Sequence[Shape], rounds: int, steps: list[Row], say: Say
) -> list[Row]:
    """Score, select and pack as a share of the ``kind`` of step that they are in."""
    rows = []
    for shape in shapes:
        step_ms = next(row["ms"] for row in steps if row["shape"] == shape.name and row["run"] == "50")
        parts = pruning_overhead(bench, shape, 50, kind == "train", rounds)
        say(f"overhead {kind} {shape.name}")
        share = sum(parts.values()) / step_ms
        rows.append({"step": kind, "shape": shape.name, "run": "50", "step_ms": step_ms, **parts, "share": share})
    return rows


def layout_table(bench: Bench, shape: Shape, rounds: int, say: Say) -> list[Row]:
    """The vision tower and connector, forward and backward, in the paper's packed rows and flat."""
    batch = bench.batch(shape, training=True, ours=True)
    videos = [batch[name] for name in ("pixel_values_videos", "video_token_pooling", "video_grids")]
    model = bench.model.model

    def tower(percent: int, layout: str) -> Callable[[], None]:
        def run() -> None:
            bench.set_run(f"{percent}", layout)
            bench.model.train()
            with bench.autocast():
                features = encode_videos(model, bench.handle.scorer, bench.handle.config, *videos)
            torch.cat(features.pooler_output).float().sum().backward()
            bench.model.zero_grad()

        return run

    rows = []
    for percent in LAYOUT_PERCENTS:
        runs = {layout: tower(percent, layout) for layout in ("packed", "flat")}
        spread, memory = _time_and_memory(bench, runs, rounds, f"layouts k={percent}", say)
        rows.append(
            {
                "shape": shape.name, "run": f"{percent}",
                **{f"{layout}_ms": spread[layout].median for layout in runs},
                **{f"{layout}_low": spread[layout].low for layout in runs},
                **{f"{layout}_mib": memory[layout] for layout in runs},
                "flat_is_faster_by": spread["flat"].times_as_fast_as(spread["packed"]),
            }
        )  # fmt: skip
    return rows


def growth_table(bench: Bench, frames: Sequence[int], rounds: int, say: Say) -> list[Row]:
    """One video of ever more frames. Slopes are of the logarithms since the row before: 1 where it grows as they do."""
    rows: list[Row] = []
    for name in ("0", "50"):
        before: Row | None = None
        for count in frames:
            shape = Shape(bench.size, 1, count)
            run = bench.train_step(name, shape)
            took = side_by_side({name: run}, bench.device, rounds)[name]
            row: Row = {"run": name, "frames": count, "ms": took.median, "low": took.low, "high": took.high}
            row["peak_mib"] = peak_memory_mib(run, bench.device)
            for key, slope in (("ms", "time_slope"), ("peak_mib", "memory_slope")):
                if before and before[key] and row[key]:
                    row[slope] = math.log(row[key] / before[key]) / math.log(count / before["frames"])
            bench.batches.clear()
            say(f"growth k={name}: {count} frames")
            rows.append(row)
            before = row
    return rows


def _time_and_memory(
    bench: Bench, runs: dict[str, Callable[[], None]], rounds: int, what: str, say: Say
) -> tuple[dict[str, Spread], dict[str, float | None]]:
    spread = side_by_side(runs, bench.device, rounds, lambda text: say(f"{what}: {text}"))
    return spread, {name: peak_memory_mib(run, bench.device) for name, run in runs.items()}


def _compare(
    bench: Bench,
    shape: Shape,
    spread: dict[str, Spread],
    memory: dict[str, float | None],
    peak_tflops: float,
    passes: int,
    labels: int,
) -> list[Row]:
    config, layer = bench.model.config, LAYERS[bench.size]
    windows = (config.vision_config.image_size[0] // config.vision_config.patch_size // 3) ** 2
    stock = min((spread[name] for name in bench.stock_runs), key=lambda took: took.median)
    rows = []
    for name, took in spread.items():
        percent = 0.0 if name.startswith("stock") else float(name)
        flops = forward_flops(config, shape, percent, layer, labels=labels)
        needed = forward_flops(config, shape, percent, layer, labels=labels, dense=False)
        bound = forward_flops(config, shape, 0, layer, labels=labels).total / flops.total
        speedup = took.times_as_fast_as(spread["0"])
        dropped = int(percent / 100 * shape.frames * windows)
        rows.append(
            {
                "shape": shape.name, "run": name, "tokens": shape.videos * (len(shape.video_tokens(windows)) - dropped),
                "ms": took.median, "low": took.low, "high": took.high,
                "mfu": passes * needed.total / (took.median / 1000) / (peak_tflops * 1e12),
                "peak_mib": memory[name],
                "over_own_0": speedup, "over_stock": took.times_as_fast_as(stock),
                "flop_bound": bound, "of_bound": speedup / bound,
            }
        )  # fmt: skip
    return rows
