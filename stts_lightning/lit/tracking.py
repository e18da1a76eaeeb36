"""What a training writes to MLflow while it goes on; its run is opened and closed in report/mlflow_runs.py."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from stts_lightning.config import Config, TrackingConfig
from stts_lightning.report.client import MlflowAway, answering, tracking_client
from stts_lightning.report.journal import Journal, Point
from stts_lightning.report.mlflow_runs import finish_run, log_points, metric_name, start_run
from stts_lightning.runs import Result, RunDir

if TYPE_CHECKING:
    from mlflow import MlflowClient

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 60.0  # between two tries; each is twice the one before
LAST_CALL_SECONDS = 150.0  # more than a call takes that gets no answer

log = logging.getLogger(__name__)


def open_logger(config: Config, run_dir: str | Path, *, flush_seconds: float = 10.0, **run: Any) -> RunLogger:
    """A Lightning logger on the MLflow run of a run folder, which `start_run` opens with ``run``.

    Raises:
        MlflowAway: MLflow is away and never had this run: nothing is lost by stopping now. A run that it has, or that
            `put_off_run` announced, goes on.
    """
    folder, open_run = RunDir(Path(run_dir)), partial(start_run, config, run_dir, **run)
    try:
        run_id = open_run()
    except MlflowAway as error:
        if not (folder.mlflow_run_id.is_file() or folder.mlflow_opening.is_file()):
            raise
        log.warning("%s The run goes on; what it logs waits in %s.", error, folder.mlflow_pending)
        run_id = None
    return RunLogger(config.tracking, folder, open_run, run_id, flush_seconds)


class RunLogger(Logger):
    """Writes metrics into the run's journal, and the journal to MLflow from a thread of its own.

    The journal has them at once, so that they outlive a killed process: the steps before its checkpoint do not run
    again. MLflow gets them every ``flush_seconds``, with each checkpoint and at the end, for a call costs 10 to 30 ms
    whatever it holds. Where it is away nothing waits for it: it is tried again after a growing pause. Lightning's own
    logger for MLflow asks it for the run when it is made and with each call, and raises.

    Hyperparameters are not logged, for `start_run` has done so, and the end of a fit does not close the run: an
    evaluation follows.

    Args:
        open_run: gives the run id.
        run_id: None where MLflow was away.
    """

    def __init__(
        self,
        tracking: TrackingConfig,
        folder: RunDir,
        open_run: Callable[[], str],
        run_id: str | None,
        flush_seconds: float,
    ) -> None:
        super().__init__()
        self._tracking, self._folder, self._open_run, self._run_id = tracking, folder, open_run, run_id
        self._client: MlflowClient | None = None
        self._flushed, self._flush_seconds = time.monotonic(), flush_seconds
        self._sender = Thread()
        self._pause, self._next_try = 0.0, 0.0

    name = property(lambda self: self._tracking.experiment)
    version = property(lambda self: self._run_id)

    @cached_property
    def _journal(self) -> Journal:
        return Journal(self._folder.mlflow_pending)  # with what a killed process has left

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        now = int(time.time() * 1000)
        self._journal.add(Point(metric_name(key), float(v), now, step or 0) for key, v in metrics.items())
        if time.monotonic() - self._flushed >= self._flush_seconds:
            self.flush()

    @rank_zero_only
    def flush(self) -> None:
        """Begin to send what MLflow does not have."""
        self._flushed = time.monotonic()
        self._save()
        if not (self._journal.empty or self._sender.is_alive() or time.monotonic() < self._next_try):
            self._sender = Thread(target=self._try_to_send, daemon=True)
            self._sender.start()

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self.flush()

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        self.flush()

    @rank_zero_only
    def close(self, result: Result | None, status: str) -> None:
        """Send what is left, and close the run as `finish_run` does; where MLflow is away, say what it does not have
        and what sends it."""
        self._save()
        self._journal.mark()
        try:
            with answering(self._tracking):
                self._wait()
            run_id = self._send()
            finish_run(run_id, result, self._folder.path, status)
        except MlflowAway as error:
            self._save()
            log.warning("%s %s", error, self._left())

    def _save(self) -> None:
        """Try again to write down what a full disk did not take."""
        if not self._journal.empty:
            self._journal.add([])

    def _wait(self) -> None:
        if self._sender.is_alive():
            self._sender.join(LAST_CALL_SECONDS)
            if self._sender.is_alive():
                raise TimeoutError("the last call has not come back")

    def _try_to_send(self) -> None:
        try:
            self._send()
        except Exception as error:  # whatever it is, the training goes on and the journal stays
            if not self._pause:
                log.warning("%s What is logged waits in %s; it is tried again.", error, self._folder.mlflow_pending)
            self._pause = min(max(2 * self._pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            self._next_try = time.monotonic() + self._pause
        else:
            if self._pause:
                log.warning("MLflow is back, and has what was logged meanwhile.")
            self._pause = 0.0

    def _send(self) -> str:
        """Give MLflow all that the journal has; the run id."""
        if self._run_id is None:
            self._run_id = self._open_run()
        with answering(self._tracking):
            self._client = self._client or tracking_client(self._tracking)
            self._journal.send(partial(log_points, self._client, self._run_id))
        self._journal.clear()
        return self._run_id

    def _left(self) -> str:
        on_disk, in_memory = self._journal.count()
        lost = f" {in_memory} VALUES ARE LOST: that disk has no room either." if in_memory else ""
        return (
            f"{on_disk} values that MLflow does not have are in {self._folder.mlflow_pending}.{lost} The same command, "
            "or the sweep's, sends them with the results, which are beside it."
        )
