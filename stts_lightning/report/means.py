"""Runs that differ in their seed alone, averaged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stts_lightning.report.collect import Key, Run
from stts_lightning.report.tables import method_rank


@dataclass(frozen=True)
class Mean:
    """The newest run of each seed of one key, averaged; None where no run has the number."""

    key: Key
    runs: tuple[Run, ...]  # by seed
    superseded: int  # older runs of the same keys and seeds
    accuracy: float  # 0-1
    stderr_questions: float | None  # of one run, clustered by video; the mean over the seeds
    stderr_seeds: float | None  # of the mean over the seeds; None for one seed

    def metric(self, name: str) -> float | None:
        """The mean of another metric over the seeds that have it."""
        return _mean([run.metrics[name] for run in self.runs if name in run.metrics])

    def metrics(self, prefix: str) -> dict[str, float]:
        """The means of all metrics below a prefix, by the rest of their name."""
        names = sorted({name for run in self.runs for name in run.metrics if name.startswith(prefix)})
        return {name.removeprefix(prefix): value for name in names if (value := self.metric(name)) is not None}


def averaged(runs: Iterable[Run]) -> list[Mean]:
    """One value a key, baseline first, then by percentage, method, variant and layer.

    Of several finished runs with the same key and seed the newest counts. Runs without an accuracy are left out.
    """
    by_key: dict[Key, dict[int, list[Run]]] = {}
    for run in sorted(runs, key=lambda run: run.started_ms):
        if "eval/accuracy" in run.metrics:
            by_key.setdefault(run.key, {}).setdefault(run.seed, []).append(run)
    return [_average(key, by_key[key]) for key in sorted(by_key, key=_order)]


def _average(key: Key, by_seed: Mapping[int, Sequence[Run]]) -> Mean:
    runs = tuple(by_seed[seed][-1] for seed in sorted(by_seed))
    accuracies = [run.metrics["eval/accuracy"] for run in runs]
    accuracy = sum(accuracies) / len(runs)
    spread = None
    if len(runs) > 1:
        spread = math.sqrt(sum((a - accuracy) ** 2 for a in accuracies) / (len(runs) - 1) / len(runs))
    errors = [run.metrics["eval/accuracy_stderr"] for run in runs if "eval/accuracy_stderr" in run.metrics]
    return Mean(key, runs, sum(map(len, by_seed.values())) - len(runs), accuracy, _mean(errors), spread)


def _order(key: Key) -> tuple[Any, ...]:
    return (key.percent if key.method != "none" else -1.0, method_rank(key.method), key.variant, key.layer)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
