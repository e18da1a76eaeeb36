"""How long a sweep will take, from what was measured: earlier runs here, or the pace of those in progress."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stts_lightning.config import Config, read_config
from stts_lightning.runs import RunDir, read_result
from stts_lightning.sweep.progress import Running


@dataclass
class Clock:
    """Seconds a training clip by method, evaluation and start-up spread over the clips."""

    measured: dict[str, list[float]] = field(default_factory=dict)

    def add(self, config: Config, seconds: float) -> None:
        self.measured.setdefault(config.prune.method, []).append(seconds / clips(config))

    def expect(self, config: Config, pace: float | None = None) -> float | None:
        """Seconds of a whole run: as its method took before, else as any did, else at ``pace`` (seconds a clip)."""
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


def clips(config: Config) -> int:
    """Clips that a run trains on, the scorer's warm-up included."""
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
            clock.add(then, result.train_seconds + result.eval_seconds)
    return clock


def _pace(running: Sequence[tuple[Config, Running]]) -> float | None:
    """Seconds a clip of the runs in progress that know how long they have left.

    From what is left alone: what came before holds start-up and, once, the making of the data.
    """
    paces = []
    for config, run in running:
        if run.seconds_left is not None and run.step < run.steps:
            paces.append(run.seconds_left / clips(config) * run.steps / (run.steps - run.step))
    return statistics.fmean(paces) if paces else None


def _work(config: Config) -> tuple[object, ...]:
    """What decides how long a clip takes."""
    data, trainer = config.data, config.trainer
    sizes = (data.name, data.train, data.questions_per_clip, data.generated.eval_videos, config.optim.batch_size)
    return (*sizes, config.backbone, config.video, trainer.accelerator, trainer.devices, trainer.num_threads)
