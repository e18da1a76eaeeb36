"""MLflow runs on a database: one for a sweep, one for each of its runs below it.

Only MLflow's client is used, never its global "active run", so that a process can hold several runs
and nothing is written to the working directory. MLflow is imported when it is first needed: 2 to 3 s.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import logging
import os
import platform
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stts_lightning.config import Config, TrackingConfig, flatten, read_config
from stts_lightning.runs import Result, RunDir, git_commit

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
METRICS_A_CALL = 1000  # MLflow's limit


def tracking_uri(tracking: TrackingConfig) -> str:
    """The database's address; a relative SQLite path is made absolute and its folder created."""
    path = _sqlite_path(tracking.uri)
    if path is None:
        return tracking.uri
    path.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{path}"


def tracking_client(tracking: TrackingConfig) -> MlflowClient:
    """A client on the database, which is made if there is none (about 3 s on an SSD, once).

    Processes may call this at once on a fresh database. A lock of our own sees to that: with MLflow's
    alone, two of them run the same migrations and one dies of it. Later writes wait for each other in SQLite.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # no calls home
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # it warns where git is not installed
    for name in ("alembic", "mlflow.store.db.utils"):  # a line for each migration of a new database
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    with _one_at_a_time(_sqlite_path(tracking.uri)):
        return MlflowClient(tracking_uri(tracking))


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
    """
    client = tracking_client(config.tracking)
    all_tags = {f"env.{key}": value for key, value in environment().items()}
    all_tags |= {"mlflow.source.git.commit": git_commit(), EXPERIMENT_TAG: config.experiment.name, **(tags or {})}
    if parent_run_id is not None:
        all_tags[PARENT_TAG] = parent_run_id
    run_id = find_run(client, run_dir)
    if run_id is None:
        experiment = _experiment(client, config.tracking)
        run_id = client.create_run(experiment, run_name=name, tags=all_tags).info.run_id
        _remember(run_dir, run_id)
    else:
        client.update_run(run_id, status="RUNNING")
        _log_tags(client, run_id, all_tags)
    _log_missing_params(client, run_id, flatten(config))
    return run_id


def find_run(client: MlflowClient, run_dir: str | Path) -> str | None:
    """The run id that a run folder remembers, if the database still has it and it was not deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run_id = RunDir(Path(run_dir)).mlflow_run_id.read_text(encoding="utf-8").strip()
        run = client.get_run(run_id)
    except (FileNotFoundError, MlflowException):
        return None
    return run_id if run.info.lifecycle_stage == "active" else None


def finish_run(run_id: str, result: Result | None, run_dir: str | Path, status: str = "FINISHED") -> None:
    """Log what a run came to, with its files, and close it.

    Args:
        result: None for a run that failed.
        run_dir: its config.yaml says where the database is.
        status: MLflow's FINISHED, FAILED or KILLED.
    """
    folder = RunDir(Path(run_dir))
    client = tracking_client(read_config(folder.config).tracking)
    if result is not None:
        log_metrics(client, run_id, result_metrics(result), step=0)
        if folder.decisions.is_file():
            from stts_lightning.report.figures import contact_sheet

            contact_sheet({result.method: folder.decisions}, folder.contact_sheet)
    files = (folder.config, folder.result, folder.predictions, folder.decisions, folder.contact_sheet, folder.log)
    log_files(client, run_id, (*files, folder.skipped))
    for predictions in sorted(folder.benchmarks.glob("*/predictions.jsonl")):
        client.log_artifact(run_id, str(predictions), f"benchmarks/{predictions.parent.name}")
    client.set_terminated(run_id, status)


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


def log_metrics(client: MlflowClient, run_id: str, values: Mapping[str, float], step: int) -> None:
    """Log values of one step in one call."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    log_batch(client, run_id, [Metric(metric_name(key), float(value), now, step) for key, value in values.items()])


def log_batch(client: MlflowClient, run_id: str, metrics: list[Any]) -> None:
    for start in range(0, len(metrics), METRICS_A_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_A_CALL])


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


@contextmanager
def _one_at_a_time(database: Path | None) -> Iterator[None]:
    """Hold ``<database>.lock``; a server's database is its own affair (None)."""
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f"{database.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _sqlite_path(uri: str) -> Path | None:
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)).absolute() if uri.startswith(prefix) else None


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
