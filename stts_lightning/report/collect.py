"""What MLflow holds, as values: sweeps, their runs, and the files of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from stts_lightning.config import Config, TrackingConfig, flatten
from stts_lightning.report.mlflow_runs import (
    EXPERIMENT_TAG,
    HOST_TAG,
    KIND_TAG,
    PARENT_TAG,
    VARIANT_TAG,
    tracking_client,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

COMMIT_TAG = "mlflow.source.git.commit"
PAGE_SIZE = 1000  # runs that MLflow gives in one answer
_NOT_THE_DATA = ("data.generated.root",)


class Setting(NamedTuple):
    """What runs must share to stand in one table."""

    backbone: str
    data: str
    quick: bool


class Key(NamedTuple):
    """A row of a table; runs of one key differ in their seed alone."""

    method: str
    percent: float  # k %, 0-100
    variant: str = "trained"
    layer: int = 0


@dataclass(frozen=True)
class Run:
    """A run of MLflow, whatever its kind: sweep, run, pretrain, bench or host."""

    id: str
    name: str
    kind: str
    experiment: str  # of experiments/
    folder: str  # MLflow's experiment, in which the run lies
    parent: str | None
    status: str
    started_ms: int
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]

    @property
    def key(self) -> Key:
        """Raises KeyError for a kind of run that has no method."""
        values = self.params["prune.method"], float(self.params["prune.percent"])
        return Key(*values, self.tags.get(VARIANT_TAG, "trained"), int(self.params["prune.layer"]))

    @property
    def seed(self) -> int:
        return int(self.params["seed"])

    @property
    def host(self) -> str:
        """The file of conf/host/, for a run of that kind."""
        return self.tags[HOST_TAG]

    @property
    def commit(self) -> str:
        return self.tags.get(COMMIT_TAG, "unknown")

    @property
    def started(self) -> str:
        return f"{datetime.fromtimestamp(self.started_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"

    @property
    def setting(self) -> Setting:
        quick = self.params.get("sweep.quick", self.tags.get("stts.quick")) == "True"
        return Setting(_backbone(self.params), _data(self.params), quick)


def open_database(tracking: TrackingConfig) -> MlflowClient:
    """A client on a database that is there; reading makes none.

    Raises:
        ValueError: there is no such file.
    """
    path = tracking.uri.removeprefix("sqlite:///")
    if path != tracking.uri and not Path(path).is_file():
        raise ValueError(f"tracking.uri={tracking.uri!r}: no such database. Run `make sweep` or an experiment first.")
    return tracking_client(tracking)


def read_runs(client: MlflowClient, where: str = "") -> list[Run]:
    """All runs of the database that are not deleted, oldest first.

    Args:
        where: a condition in MLflow's filter language.
    """
    folders = {folder.experiment_id: folder.name for folder in client.search_experiments()}
    return [_run(run, folders) for run in _pages(client, list(folders), where)] if folders else []


def newest_sweep(client: MlflowClient, experiment: str | None = None) -> Run:
    """The sweep that was started last, of one of experiments/ or of any.

    Raises:
        ValueError: there is none.
    """
    found = read_runs(client, f"tags.`{KIND_TAG}` = 'sweep'")
    found = [run for run in found if experiment in (None, run.experiment)]
    if not found:
        line = f"make experiment NAME={experiment}" if experiment else "make sweep"
        raise ValueError(f"no {experiment or 'sweep'} in the tracking database: run `{line}` first.")
    return found[-1]


def children(client: MlflowClient, sweep: Run) -> list[Run]:
    """A sweep's finished runs, without its pretraining."""
    where = f"tags.`{PARENT_TAG}` = '{sweep.id}' and tags.`{KIND_TAG}` = 'run' and attributes.status = 'FINISHED'"
    return read_runs(client, where)


def read_json(client: MlflowClient, run: Run, name: str) -> Any:
    """A JSON artifact of a run, or None where it has none of that name."""
    body = read_bytes(client, run, name)
    return None if body is None else json.loads(body)


def read_bytes(client: MlflowClient, run: Run, name: str) -> bytes | None:
    """An artifact of a run, or None where it has none of that name."""
    if name not in artifacts(client, run):
        return None
    with TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run.id, name, folder)).read_bytes()


def artifacts(client: MlflowClient, run: Run) -> list[str]:
    """The names of a run's files."""
    return sorted(artifact.path for artifact in client.list_artifacts(run.id) if not artifact.is_dir)


def _pages(client: MlflowClient, folders: list[str], where: str) -> Iterator[Any]:
    token = None
    while True:
        order = ["attributes.start_time ASC"]
        page = client.search_runs(folders, where, max_results=PAGE_SIZE, order_by=order, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _run(run: Any, folders: Mapping[str, str]) -> Run:
    tags = dict(run.data.tags)
    return Run(
        id=run.info.run_id,
        name=run.info.run_name,
        kind=tags.get(KIND_TAG, ""),
        experiment=tags.get(EXPERIMENT_TAG, ""),
        folder=folders[run.info.experiment_id],
        parent=tags.get(PARENT_TAG),
        status=run.info.status,
        started_ms=run.info.start_time,
        metrics=dict(run.data.metrics),
        params=dict(run.data.params),
        tags=tags,
    )


def _backbone(params: Mapping[str, str]) -> str:
    """Its name, and which of several checkpoints: runs that start from different ones are not averaged."""
    name, checkpoint = params.get("backbone.name", "?"), params.get("backbone.tiny.seed", "0")
    return name if checkpoint == "0" else f"{name} (checkpoint {checkpoint})"


def _data(params: Mapping[str, str]) -> str:
    """The set by its name, its file, and those of its knobs that do not stand at their defaults."""
    files = [params[key] for key in ("data.train", "data.eval") if params.get(key, "None") != "None"]
    knobs = [
        f"{key.removeprefix('data.generated.')}={params[key]}"
        for key, default in _defaults().items()
        if key.startswith("data.generated.") and key not in _NOT_THE_DATA and params.get(key, default) != default
    ]
    named = files or knobs
    return params.get("data.name", "?") + (f" ({', '.join(named)})" if named else "")


@cache
def _defaults() -> dict[str, str]:
    return {key: str(value) for key, value in flatten(Config()).items()}
