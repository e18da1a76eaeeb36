"""A sweep whose MLflow is taken away goes on, and the next call tells MLflow."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import empty_database
from outages import Holder, patience
from rich.console import Console

from stts_lightning.config import REPOSITORY, Config, SweepConfig, TrackingConfig
from stts_lightning.report.client import MlflowAway, tracking_client
from stts_lightning.report.mlflow_runs import KIND_TAG, PARENT_TAG
from stts_lightning.sweep import run_sweep
from stts_lightning.sweep.plan import sweep_folder
from stts_lightning.sweep.publish import SweepTracking

FAKE_TRAIN = (sys.executable, str(REPOSITORY / "tests" / "report" / "fake_train.py"))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    uri = empty_database(tmp_path / "mlflow.db")
    tracking = TrackingConfig(uri=uri, artifacts=str(tmp_path / "artifacts"), experiment="e")
    tracking_client(tracking)
    sweep = SweepConfig(percents=[50.0], methods=["stts"], seeds=[0], jobs=2)
    return Config(output_dir=str(tmp_path), sweep=sweep, tracking=tracking)


@pytest.fixture
def holder(config: Config) -> Iterator[Holder]:
    holder = Holder(config.tracking.uri)
    with patience(100):
        yield holder
    holder.let_go()


def call(config: Config) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=100)
    return run_sweep(config, command=FAKE_TRAIN, calibrate=None, console=console), console.file.getvalue()


def test_a_sweep_goes_on_without_mlflow_and_its_next_call_tells_it_everything_once(
    config: Config, holder: Holder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = SweepTracking.open

    def opened_and_then_held(self: SweepTracking) -> None:
        opened(self)
        holder.hold()

    monkeypatch.setattr(SweepTracking, "open", opened_and_then_held)
    folder = sweep_folder(config)
    assert call(config)[0] == 0
    assert (folder / "results.csv").is_file() and (folder / "stts-k50-seed0" / "result.json").is_file()
    assert "stts-k50-seed0 starts all the same" in caplog.text
    assert (folder / "stts-k50-seed0" / "mlflow_opening.json").is_file()  # for the run's own process
    assert f"The sweep's results are all in {folder}. The same command tells it later" in caplog.text

    monkeypatch.setattr(SweepTracking, "open", opened)
    status, said = call(config)  # MLflow is still away, and has this sweep
    assert status == 0 and "2 runs, 2 of them finished" in said

    holder.let_go()
    caplog.clear()
    assert call(config)[0] == 0
    assert not caplog.records

    client = tracking_client(config.tracking)
    runs = {run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("e").experiment_id])}
    parent = runs.pop(folder.name)
    assert set(runs) == {"none-seed0", "stts-k50-seed0"}
    for name, run in runs.items():
        assert run.info.status == "FINISHED" and run.data.tags[PARENT_TAG] == parent.info.run_id
        assert run.data.tags[KIND_TAG] == "run" and "eval/accuracy" in run.data.metrics
        assert len(client.get_metric_history(run.info.run_id, "eval/accuracy")) == 1
        assert not list((folder / name).glob("mlflow_*.json*"))
    series = client.get_metric_history(parent.info.run_id, "accuracy/stts")
    assert [(point.step, round(point.value, 3)) for point in series] == [(50, 0.827)]
    assert parent.info.status == "FINISHED"
    assert "results.csv" in {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}


def test_a_sweep_does_not_begin_without_mlflow(config: Config, holder: Holder) -> None:
    holder.hold()
    with pytest.raises(MlflowAway, match="database is locked.*tracking.enabled=false"):
        call(config)
    assert not list(sweep_folder(config).glob("*seed0"))
