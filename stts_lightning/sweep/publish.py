"""A sweep in MLflow: a parent run with the tables, figures and one series a method; a child for each run.

Where MLflow is away the sweep goes on and says so. Everything that MLflow gets lies in the folders, and is entered at
the end of the sweep or by the next call of the same one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stts_lightning.config import Config
from stts_lightning.report import mlflow_runs
from stts_lightning.report.client import MlflowAway, told_if_away, tracking_client
from stts_lightning.report.tables import Row, average, series_names
from stts_lightning.runs import RunDir, read_result

if TYPE_CHECKING:
    from mlflow import MlflowClient

NEXT_CALL = "The same command tells it later."

log = logging.getLogger(__name__)


class SweepTracking:
    """Does nothing where ``tracking.enabled`` is false, so that the sweep needs no second path."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.enabled = config.tracking.enabled
        self.parent: str | None = None

    def open(self) -> None:
        """Make the database if need be, before the runs all want it, and open the parent run.

        Raises:
            MlflowAway: it is not there, and never had this sweep: nothing is lost by stopping now.
        """
        if not self.enabled:
            return
        try:
            self._open()
        except MlflowAway as error:
            remembered = RunDir(self.folder).mlflow_run_id
            if not remembered.is_file():
                raise
            self.parent = remembered.read_text(encoding="utf-8").strip()
            log.warning("%s %s", error, NEXT_CALL)

    def _open(self) -> None:
        sweep = self.config.sweep
        tags = {
            mlflow_runs.KIND_TAG: "sweep",
            "stts.folder": str(self.folder.absolute()),
            "stts.methods": ", ".join(sweep.methods),
            "stts.percents": ", ".join(f"{percent:g}" for percent in sweep.percents),
            "stts.seeds": ", ".join(map(str, sweep.seeds)),
            mlflow_runs.QUICK_TAG: str(sweep.quick),
        }
        self.parent = mlflow_runs.start_run(self.config, self.folder, name=self.folder.name, tags=tags)

    def start_child(self, config: Config, run_dir: Path, kind: str) -> None:
        """Open a run below the sweep's; the run's own process finds it by its folder and goes on with it. Where MLflow
        is away, that process opens it as soon as it can."""
        if not self.enabled:
            return
        name, tags = _child(config, run_dir, kind)
        try:
            mlflow_runs.start_run(config, run_dir, name=name, parent_run_id=self.parent, tags=tags)
        except MlflowAway as error:
            mlflow_runs.put_off_run(run_dir, name=name, parent_run_id=self.parent, tags=tags)
            log.warning("%s %s starts all the same.", error, run_dir.name)

    def end_child(self, config: Config, run_dir: Path, status: str) -> None:
        """Close the run of a process that could not do so itself: FAILED or KILLED."""
        if not self.enabled:
            return
        with told_if_away(config.tracking, f"It does not know that {run_dir.name} is {status}. {NEXT_CALL}"):
            run_id = mlflow_runs.find_run(tracking_client(config.tracking), run_dir)
            if run_id is not None:
                mlflow_runs.finish_run(run_id, None, run_dir, status)

    def stop(self) -> None:
        """Close the sweep's run after an interruption; the next call opens it again."""
        if not self.enabled or self.parent is None:
            return
        with told_if_away(self.config.tracking, f"It does not know that the sweep was stopped. {NEXT_CALL}"):
            tracking_client(self.config.tracking).set_terminated(self.parent, "KILLED")

    def report(
        self,
        finished: Iterable[tuple[Config, Path]],
        pretraining: tuple[Config, Path] | None,
        rows: Sequence[Row],
        files: Iterable[Path],
        status: str,
    ) -> None:
        """Enter what the database does not have of the finished runs and of the sweep's own run, and close that.

        Args:
            rows, files: of the sweep's report.
        """
        if not self.enabled or self.parent is None:
            return
        with told_if_away(self.config.tracking, f"The sweep's results are all in {self.folder}. {NEXT_CALL}"):
            self._open()  # whatever was away when the sweep began
            client = tracking_client(self.config.tracking)
            if pretraining is not None:
                mlflow_runs.tell_the_rest(*pretraining)
            self._complete(client, finished)
            self._publish(client, rows, files, status)

    def _complete(self, client: MlflowClient, finished: Iterable[tuple[Config, Path]]) -> None:
        """Enter finished runs that this sweep does not have in the database: it was lost or away, tracking was off, or
        another experiment trained them. Theirs stay theirs; this one gets a second entry of the same folder."""
        for config, run_dir in finished:
            own = self.folder / "entries" / run_dir.name
            if self._has_finished(client, run_dir) or self._has_finished(client, own):
                continue
            first = mlflow_runs.find_run(client, run_dir)
            taken = first is not None and client.get_run(first).info.status == "FINISHED"
            entry = own if taken else run_dir
            name, tags = _child(config, entry, "run")
            run_id = mlflow_runs.start_run(config, entry, name=name, parent_run_id=self.parent, tags=tags)
            mlflow_runs.finish_run(run_id, read_result(run_dir), run_dir)

    def _has_finished(self, client: MlflowClient, entry: Path) -> bool:
        run_id = mlflow_runs.find_run(client, entry)
        run = None if run_id is None else client.get_run(run_id)
        return bool(run and run.info.status == "FINISHED" and run.data.tags.get(mlflow_runs.PARENT_TAG) == self.parent)

    def _publish(self, client: MlflowClient, rows: Sequence[Row], files: Iterable[Path], status: str) -> None:
        """Log the sweep's files and a series each of accuracy and kept tokens, with the percentage as the step."""
        assert self.parent is not None
        names = series_names(rows)
        for mean in average(rows):
            series = names[mean.series]
            values = {f"accuracy/{series}": mean.accuracy, f"kept_tokens/{series}": mean.kept_tokens}
            step = round(mean.prune_percent)
            new = {key: value for key, value in values.items() if not _has(client, self.parent, key, step, value)}
            mlflow_runs.log_metrics(client, self.parent, new, step=step)
        mlflow_runs.log_files(client, self.parent, files)
        client.set_terminated(self.parent, status)


def _child(config: Config, run_dir: Path, kind: str) -> tuple[str, dict[str, str]]:
    """Name and tags of a run below the sweep's."""
    name = run_dir.name if kind == "run" else f"{kind}-{run_dir.name}"
    return name, {mlflow_runs.KIND_TAG: kind, mlflow_runs.VARIANT_TAG: config.variant}


def _has(client: MlflowClient, run_id: str, key: str, step: int, value: float) -> bool:
    """Whether a series has this point already, from an earlier call of the same sweep."""
    return any(point.step == step and point.value == value for point in client.get_metric_history(run_id, key))
