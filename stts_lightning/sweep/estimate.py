"""How long a sweep will take, from what was measured: earlier runs here, or the pace of those in progress."""

from __future__ import annotations

import heapq
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stts_lightning.config import Config, read_config, save_config
from stts_lightning.runs import RunDir, read_result
from stts_lightning.sweep.progress import Running


@dataclass
class Clock:
    """Seconds a training clip by method, evaluation and start-up spread over the clips; and seconds an evaluation."""

    measured: dict[str, list[float]] = field(default_factory=dict)
    evaluations: list[float] = field(default_factory=list)

    def add(self, config: Config, seconds: float, eval_seconds: float | None = None) -> None:
        if clips(config):
            self.measured.setdefault(config.prune.method, []).append(seconds / clips(config))
        if eval_seconds is not None:
            self.evaluations.append(eval_seconds)

    def expect(self, config: Config, pace: float | None = None) -> float | None:
        """Seconds of a whole run: as its method took before, else as any did, else at ``pace`` (seconds a clip).
        One that is evaluated alone takes as long as evaluations took, and next to nothing while none has ended."""
        if not clips(config):
            return statistics.fmean(self.evaluations) if self.evaluations else 0.0
        rates = self.measured.get(config.prune.method) or [rate for each in self.measured.values() for rate in each]
        rate = statistics.fmean(rates) if rates else pace
        return None if rate is None else rate * clips(config)

    def seconds_left(
        self, running: Sequence[tuple[Config, Running]], waiting: Sequence[Config], slots: int, alone: bool = False
    ) -> float | None:
        """Until the last run ends, ``slots`` at a time; None while nothing has been measured.

        Args:
            alone: what is running must end before the others start, and has the whole machine meanwhile:
                what follows shares it, so one of them is ``slots`` times slower.
        """
        pace = _pace(running)
        ends: list[float] = []
        for config, run in running:
            whole = self.expect(config, pace)
            rest = run.seconds_left if run.seconds_left is not None else whole and max(whole - run.elapsed, 0.0)
            if rest is None:
                return None
            ends.append(rest)
        last = max(ends, default=0.0)
        if alone:
            ends, pace = [last] * slots, pace and pace * slots
        heapq.heapify(ends)
        for config in waiting:
            whole = self.expect(config, pace)
            if whole is None:
                return None
            start = heapq.heappop(ends) if len(ends) >= slots else 0.0
            heapq.heappush(ends, start + whole)
            last = max(last, start + whole)
        return last


@dataclass(frozen=True)
class Calibration:
    """What a few clips took on this machine: seconds a clip, and of a run's start."""

    make_s: float
    read_s: float
    step_s: dict[str, float]  # by threads
    start_s: float

    def making(self, config: Config, cores: int) -> float:
        """Seconds to make the embedded set."""
        generated = config.data.generated
        return self.make_s * (generated.train_videos + generated.eval_videos) / cores

    def run(self, config: Config) -> float:
        """Seconds of one run, evaluation included: it needs about a third of a training step."""
        data, step = config.data, self.step_s[str(config.trainer.num_threads)]
        read = self.read_s if data.num_workers == 0 and data.frame_cache_dir is None else 0.0
        evaluated = data.generated.eval_videos * step / 3 if data.train is None else 0.0
        return self.start_s + clips(config) * max(step + read, self.read_s if data.num_workers else 0.0) + evaluated


def calibrated(config: Config, command: Sequence[str], timeout_s: float = 120.0) -> Calibration | None:
    """Measure this machine in a process of its own; None where that is not possible.

    A checkpoint of real size takes longer to load than an estimate is worth, so only the tiny model is measured.
    """
    if config.backbone.pretrained is not None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        save_config(config, f"{folder}/config.yaml")
        started = time.monotonic()
        try:
            done = subprocess.run(
                [*command, "--config", f"{folder}/config.yaml"], capture_output=True, text=True, timeout=timeout_s
            )
            found = json.loads(done.stdout.splitlines()[-1])
        except (subprocess.TimeoutExpired, IndexError, ValueError):
            return None
        return Calibration(**found, start_s=time.monotonic() - started)


def clips(config: Config) -> int:
    """Clips that a run trains on, the scorer's warm-up included."""
    if config.variant != "trained":
        return 0
    warmup = config.aux.scorer_warmup_steps if config.prune.method == "stts" else 0
    return (config.optim.steps + warmup) * config.optim.batch_size * config.optim.accumulate


def clock_from(config: Config) -> Clock:
    """What the finished runs below ``config.output_dir`` took, where they are like those of ``config``."""
    clock = Clock()
    for path in sorted(Path(config.output_dir).glob("sweeps/*/*/result.json")):
        try:
            result, then = read_result(path.parent), read_config(RunDir(path.parent).config)
        except ValueError:  # an older version's, or damaged: no reason to stop here
            continue
        if result is not None and _work(then) == _work(config):
            clock.add(then, result.train_seconds + result.eval_seconds, result.eval_seconds)
    return clock


def _pace(running: Sequence[tuple[Config, Running]]) -> float | None:
    """Seconds a clip of the runs in progress that know how long they have left.

    From what is left alone: what came before holds start-up and, once, the making of the data.
    """
    paces = []
    for config, run in running:
        if run.seconds_left is not None and run.step < run.steps and clips(config):
            paces.append(run.seconds_left / clips(config) * run.steps / (run.steps - run.step))
    return statistics.fmean(paces) if paces else None


def _work(config: Config) -> tuple[object, ...]:
    """What decides how long a clip takes."""
    data, trainer = config.data, config.trainer
    sizes = (data.name, data.train, data.questions_per_clip, data.generated.eval_videos, config.optim.batch_size)
    return (*sizes, config.backbone, config.video, trainer.accelerator, trainer.devices, trainer.num_threads)
