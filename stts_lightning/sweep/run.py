"""One run of a sweep as a value: its name, its configuration and the run that it waits for follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from stts_lightning.config import FIXED_PERCENT, Config, with_method
from stts_lightning.runs import RunDir


@dataclass(frozen=True)
class Run:
    """What tells the runs of a sweep apart."""

    method: str
    percent: float  # k %, 0-100
    seed: int
    layer: int | None = None  # l; None: the sweep's prune.layer
    variant: str = "trained"  # or, evaluated without any training, as in Config
    trained_at: float = 0.0  # k of the model that `other_percent` evaluates at ``percent``

    @property
    def name(self) -> str:
        """Of its folder."""
        parts = [self.method]
        if self.method != "none":
            parts.append(f"k{self.percent:g}")
        if self.layer is not None:
            parts.append(f"l{self.layer}")
        if self.variant != "trained":
            parts.append(self.variant)
        return "-".join([*parts, f"seed{self.seed}"])

    @property
    def source(self) -> Run | None:
        """The run whose model this one evaluates; None for one that trains its own."""
        if self.variant == "inference_only":
            return Run("none", 0.0, self.seed)
        if self.variant == "other_percent":
            return replace(self, variant="trained", percent=self.trained_at)
        return replace(self, variant="trained") if self.variant == "test_time_scaling" else None


def trained_run(method: str, percent: float, seed: int, layer: int | None = None) -> Run:
    """The two ends, `none` and `text_only`, are what they are at every percentage and layer."""
    if method in FIXED_PERCENT:
        return Run(method, FIXED_PERCENT[method], seed)
    return Run(method, percent, seed, layer)


def run_of(saved: Config, sweep: Config) -> Run:
    """The run that a configuration belongs to, seen from the sweep's."""
    prune = saved.prune
    layer = None if prune.layer == sweep.prune.layer else prune.layer
    run = Run(prune.method, prune.percent, saved.seed, layer, saved.variant)
    return replace(run, trained_at=sweep.sweep.percents[0]) if run.variant == "other_percent" else run


def run_config(config: Config, run: Run, folder: Path) -> Config:
    """One run's configuration, derived from the sweep's, whose runs lie in ``folder``."""
    config = with_method(config, run.method)
    layer = config.prune.layer if run.layer is None else run.layer
    prune = replace(config.prune, method=run.method, percent=run.percent, seed=run.seed, layer=layer)
    start = config.init_from if run.source is None else str(RunDir(folder / run.source.name).model)
    config = replace(config, seed=run.seed, prune=prune, variant=run.variant, init_from=start)
    if run.variant == "test_time_scaling":
        frames = scaled_frames(config.video.max_frames, run.percent)
        config = replace(config, video=replace(config.video, max_frames=frames))
    return config


def scaled_frames(frames: int, percent: float) -> int:
    """As many frames as leave the language model no fewer tokens than ``frames`` unpruned ones (paper 4.3)."""
    return math.ceil(100 * frames / (100 - percent))
