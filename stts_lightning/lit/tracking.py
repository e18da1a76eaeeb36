"""What a training writes to MLflow while it goes on; its run is opened and closed in report/mlflow_runs.py."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from stts_lightning.config import Config, TrackingConfig
from stts_lightning.report.mlflow_runs import (
    finish_run,
    log_batch,
    metric_name,
    start_run,
    tracking_client,
    tracking_uri,
)

__all__ = ["RunLogger", "finish_run", "mlflow_logger", "start_run"]


def mlflow_logger(config: Config, run_id: str, flush_seconds: float = 10.0) -> RunLogger:
    """A Lightning logger on a run that `start_run` opened."""
    return RunLogger(config.tracking, run_id, flush_seconds)


class RunLogger(MLFlowLogger):
    """Lightning's logger, bound to a run, with its metrics gathered: a call costs 10 to 30 ms whatever it holds.

    They are written every ``flush_seconds``, with each checkpoint and at the end, so that what was
    logged before a checkpoint outlives a killed process. Hyperparameters are not logged, for
    `start_run` has done so, and the end of a fit does not close the run: an evaluation follows.
    """

    def __init__(self, tracking: TrackingConfig, run_id: str, flush_seconds: float) -> None:
        tracking_client(tracking)  # quietens MLflow before the parent class imports it
        super().__init__(experiment_name=tracking.experiment, tracking_uri=tracking_uri(tracking), run_id=run_id)
        self._waiting: list[Any] = []
        self._flushed = time.monotonic()
        self._flush_seconds = flush_seconds

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(metric_name(key), float(v), now, step or 0) for key, v in metrics.items()]
        if time.monotonic() - self._flushed >= self._flush_seconds:
            self.flush()

    @rank_zero_only
    def flush(self) -> None:
        """Write what was gathered."""
        waiting, self._waiting = self._waiting, []
        self._flushed = time.monotonic()
        log_batch(self.experiment, str(self.run_id), waiting)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self.flush()

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        self.flush()
        if status == "failed":
            self.experiment.set_terminated(self.run_id, "FAILED")
