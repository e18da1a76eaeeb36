"""MLflow runs on a database: one for a sweep, one for each of its runs below it.

Only MLflow's client is used, never its global "active run", so that a process can hold several runs
and nothing is written to the working directory. MLflow is imported when it is first needed: 2 to 3 s.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stts_lightning.config import Config, TrackingConfig, flatten, read_config
from stts_lightning.report.client import answering, tracking_client
from stts_lightning.report.journal import POINTS_A_CALL, Journal, Point
from stts_lightning.runs import Result, RunDir, git_commit, read_result, write_json

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT_TAG = "mlflow.parentRunId"
KIND_TAG = "stts.kind"  # sweep, run, pretrain, bench or host: how a notebook finds the sweeps
EXPERIMENT_TAG = "stts.experiment"  # the name of the file in experiments/
QUICK_TAG = "stts.quick"  # True: its numbers mean nothing
HOST_TAG = "stts.host"  # the name of the file in conf/host/
VARIANT_TAG = "stts.variant"  # as in Config
BENCHMARK = "eval/benchmark/"  # before a benchmark's name
BENCHMARK_ERROR = "eval/benchmark_stderr/"
PARAMS_A_CALL = 100  # MLflow's limit


def start_run(
    config: Config,
    run_dir: str | Path,
    *,
    name: str,
    parent_run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Open the MLflow run of a run folder: the one that it had before, or a new one.

    Parameters that the run has already are left as they are, for MLflow never changes one: what a
    resumed run really used is in its config.yaml.

    Args:
        run_dir: keeps the run id in its file `mlflow_run_id`.
        parent_run_id: the sweep's run; null leaves the parent as it is.

    Returns:
        the run id.

    Raises:
        MlflowAway: MLflow is not there, or full, or locked.
    """
    with answering(config.tracking):
        return _start_run(config, RunDir(Path(run_dir)), name, parent_run_id, tags or {})


def put_off_run(run_dir: str | Path, *, name: str, parent_run_id: str | None, tags: Mapping[str, str]) -> None:
    """Leave it to the next `start_run` on the folder, of whatever process, to open the run under this name and parent
    and with these tags; and let a training begin there though MLflow is away."""
    path = RunDir(Path(run_dir)).mlflow_opening
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"name": name, "tags": _with_parent(tags, parent_run_id)})


def _start_run(config: Config, folder: RunDir, name: str, parent_run_id: str | None, tags: Mapping[str, str]) -> str:
    client = tracking_client(config.tracking)
    put_off = json.loads(folder.mlflow_opening.read_text("utf-8")) if folder.mlflow_opening.is_file() else {}
    all_tags = {f"env.{key}": value for key, value in environment().items()}
    all_tags |= {"mlflow.source.git.commit": git_commit(), EXPERIMENT_TAG: config.experiment.name}
    all_tags |= {**put_off.get("tags", {}), **_with_parent(tags, parent_run_id)}
    run_id = find_run(client, folder.path)
    if run_id is None:
        experiment = _experiment(client, config.tracking)
        run_id = client.create_run(experiment, run_name=put_off.get("name", name), tags=all_tags).info.run_id
        _remember(folder.path, run_id)
    else:
        client.update_run(run_id, status="RUNNING")
        _log_tags(client, run_id, all_tags)
    _log_missing_params(client, run_id, flatten(config))
    folder.mlflow_opening.unlink(missing_ok=True)
    return run_id


def _with_parent(tags: Mapping[str, str], parent_run_id: str | None) -> dict[str, str]:
    return {**tags} if parent_run_id is None else {**tags, PARENT_TAG: parent_run_id}


def find_run(client: MlflowClient, run_dir: str | Path) -> str | None:
    """The run id that a run folder remembers, if the database still has it and it was not deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run_id = RunDir(Path(run_dir)).mlflow_run_id.read_text(encoding="utf-8").strip()
        run = client.get_run(run_id)
    except FileNotFoundError:
        return None
    except MlflowException as error:  # a database that is away may have it all the same
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return run_id if run.info.lifecycle_stage == "active" else None


def finish_run(run_id: str, result: Result | None, run_dir: str | Path, status: str = "FINISHED") -> None:
    """Log what a run came to, with its files and what is left of its journal, and close it.

    It may be called again after it has failed: nothing is logged twice.

    Args:
        result: None for a run that failed.
        run_dir: its config.yaml says where the database is.
        status: MLflow's FINISHED, FAILED or KILLED.

    Raises:
        MlflowAway: MLflow is not there, or full, or locked. The folder's `mlflow_pending.jsonl` stays.
    """
    folder = RunDir(Path(run_dir))
    tracking = read_config(folder.config).tracking
    journal = Journal(folder.mlflow_pending)
    journal.mark()
    with answering(tracking):
        client = tracking_client(tracking)
        journal.send(partial(log_points, client, run_id))
        _finish_run(client, run_id, result, folder, status)
    journal.clear()


def tell_the_rest(config: Config, run_dir: str | Path) -> Result | None:
    """Tell MLflow of a finished run what it could not be told when the run ended; None if there is no such thing.

    Raises:
        MlflowAway: MLflow is still away.
    """
    folder = RunDir(Path(run_dir))
    result = read_result(folder.path) if folder.mlflow_pending.is_file() else None
    if result is not None:
        finish_run(start_run(config, folder.path, name=folder.path.name), result, folder.path)
    return result


def _finish_run(client: MlflowClient, run_id: str, result: Result | None, folder: RunDir, status: str) -> None:
    ended_ms = int(time.time() * 1000)
    if result is not None:
        if folder.result.is_file():  # a time that is the same whenever this is called
            ended_ms = int(folder.result.stat().st_mtime * 1000)
        log_metrics(client, run_id, result_metrics(result), 0, ended_ms)
        if folder.decisions.is_file():
            from stts_lightning.report.figures import contact_sheet

            contact_sheet({result.method: folder.decisions}, folder.contact_sheet)
    files = (folder.config, folder.result, folder.predictions, folder.decisions, folder.contact_sheet, folder.log)
    log_files(client, run_id, (*files, folder.skipped))
    for predictions in sorted(folder.benchmarks.glob("*/predictions.jsonl")):
        client.log_artifact(run_id, str(predictions), f"benchmarks/{predictions.parent.name}")
    client.set_terminated(run_id, status, ended_ms)


def result_metrics(result: Result) -> dict[str, float]:
    """The final metrics of a run under their MLflow names; those that it has not are left out."""
    values = {
        "eval/accuracy": result.accuracy,
        "eval/accuracy_stderr": result.accuracy_stderr,
        "eval/seconds": result.eval_seconds,
        "prune/kept_tokens": result.kept_tokens,
        "train/samples_per_second": result.samples_per_second,
        "train/tokens_per_second": result.tokens_per_second,
        "train/peak_memory_gib": result.peak_memory_gib,
        "train/seconds": result.train_seconds,
        **{f"eval/accuracy/{category}": value for category, value in result.by_category.items()},
        **{f"eval/kept/{kind}": value for kind, value in result.kept_shares.items()},
        **{f"data/skipped/{kind}": float(lost) for kind, lost in result.skipped.items()},
        **benchmark_metrics(result.benchmarks, result.benchmarks_stderr),
    }
    return {key: value for key, value in values.items() if value is not None}


def benchmark_metrics(accuracies: Mapping[str, float], stderrs: Mapping[str, float]) -> dict[str, float]:
    """Accuracy (0-1) and standard error by benchmark, under their MLflow names."""
    return {BENCHMARK + name: value for name, value in accuracies.items()} | {
        BENCHMARK_ERROR + name: value for name, value in stderrs.items()
    }


def log_metrics(
    client: MlflowClient, run_id: str, values: Mapping[str, float], step: int, timestamp_ms: int | None = None
) -> None:
    """Log values of one step in one call."""
    when = int(time.time() * 1000) if timestamp_ms is None else timestamp_ms
    log_points(client, run_id, [Point(metric_name(key), float(value), when, step) for key, value in values.items()])


def log_points(client: MlflowClient, run_id: str, points: Sequence[Point]) -> None:
    from mlflow.entities import Metric

    for start in range(0, len(points), POINTS_A_CALL):
        client.log_batch(run_id, metrics=[Metric(*point) for point in points[start : start + POINTS_A_CALL]])


def log_files(client: MlflowClient, run_id: str, paths: Iterable[Path]) -> None:
    """Log those of the files that exist as artifacts."""
    for path in paths:
        if path.is_file():
            client.log_artifact(run_id, str(path))


def metric_name(key: str) -> str:
    """MLflow allows letters, digits and ``_/. -`` in a name."""
    return re.sub(r"[^\w/. -]+", "_", key, flags=re.ASCII)


def environment() -> dict[str, str]:
    """What a run's numbers depend on, besides its configuration."""
    import torch

    names = ("torch", "lightning", "transformers", "decord", "av", "mlflow")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_cores": str(os.cpu_count()),
        "gpu": ", ".join(gpus) or "none",
        **{name: _version(name) for name in names},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _experiment(client: MlflowClient, tracking: TrackingConfig) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(tracking.experiment)
    if found is None:
        # a server keeps its artifacts where it wants; a database needs to be told
        remote = tracking.uri.startswith("http")
        location = None if remote else Path(tracking.artifacts).absolute().as_uri()
        try:
            return client.create_experiment(tracking.experiment, artifact_location=location)
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(tracking.experiment)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise ValueError(
            f"tracking.experiment={tracking.experiment!r} was deleted in MLflow. Restore it "
            f"(`mlflow experiments restore -x {found.experiment_id}`) or give another name."
        )
    return str(found.experiment_id)


def _remember(run_dir: str | Path, run_id: str) -> None:
    path = RunDir(Path(run_dir)).mlflow_run_id
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_text(run_id + "\n", encoding="utf-8")
    os.replace(aside, path)


def _log_missing_params(client: MlflowClient, run_id: str, values: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    missing = [Param(key, str(value)) for key, value in values.items() if key not in known]
    for start in range(0, len(missing), PARAMS_A_CALL):
        client.log_batch(run_id, params=missing[start : start + PARAMS_A_CALL])


def _log_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
