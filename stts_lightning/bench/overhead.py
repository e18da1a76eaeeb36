"""What pruning itself costs: the things that a step with pruning does and a step without does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from stts_lightning.bench.case import Shape
from stts_lightning.bench.measure import side_by_side
from stts_lightning.bench.steps import Bench
from stts_lightning.molmo2.arrange import arrange
from stts_lightning.molmo2.attention import attention_dtype
from stts_lightning.molmo2.tower import describe_windows, embed, feature_layers, run_blocks
from stts_lightning.prune.select import select


def pruning_overhead(bench: Bench, shape: Shape, percent: float, training: bool, rounds: int) -> dict[str, float]:
    """Milliseconds a step of ``score`` (pooling, MLP, auxiliary loss), ``select`` and ``pack`` (the plan, and moving
    the features of all tapped blocks), each with its backward pass in training."""
    bench.set_run(f"{percent:g}")
    model, config = bench.model.model, bench.handle.config
    bench.model.train(training)
    batch = bench.batch(shape, training=training, ours=True)
    pixels = batch["pixel_values_videos"]
    windows = describe_windows(pixels, batch["video_token_pooling"], batch["video_grids"])
    with torch.no_grad(), bench.autocast():
        x_TND, _ = run_blocks(model, embed(model, pixels), range(config.layer + 1), {})
        scores = bench.handle.scorer(x_TND, windows)
        selection = select(scores.scores_TW, windows.frames_per_video, percent)
        dtype = attention_dtype(x_TND)
    x_TND.requires_grad_(training)
    num_patches = x_TND.shape[1]
    moved = 1 + sum(tap <= config.layer + 1 for tap in feature_layers(model))

    def score() -> None:
        with bench.autocast():
            found = bench.handle.scorer(x_TND, windows)
        if training:
            (found.aux_loss + found.log_scores_TW.sum()).backward()

    def choose() -> None:
        select(scores.scores_TW, windows.frames_per_video, percent)

    def pack() -> None:
        left = arrange(selection, windows, num_patches, config.layout, False, dtype)
        for _ in range(moved):
            x_RND = left.gather(x_TND)
            if training:
                x_RND.backward(torch.ones_like(x_RND))

    runs: dict[str, Callable[[], Any]] = {"score": score, "select": choose, "pack": pack}
    with torch.set_grad_enabled(training):
        spread = side_by_side(runs, bench.device, rounds)
    bench.model.zero_grad()
    x_TND.grad = None
    return {name: took.median for name, took in spread.items()}
