"""Tracking on a real SQLite database, made once for the module: its migrations take seconds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from mlflow import MlflowClient
from outages import wait_until
from rich.console import Console
from torch.utils.data import DataLoader

from stts_lightning.config import REPOSITORY, Config, OptimConfig, SweepConfig, TrackingConfig, flatten, save_config
from stts_lightning.lit.tracking import finish_run, open_logger, start_run
from stts_lightning.report.mlflow_runs import KIND_TAG, PARENT_TAG, tracking_client
from stts_lightning.runs import Result, RunDir
from stts_lightning.sweep import run_sweep
from stts_lightning.sweep.plan import sweep_folder

FAKE_TRAIN = (sys.executable, str(REPOSITORY / "tests" / "report" / "fake_train.py"))
RESULT = Result("stts", 50.0, 0, 0.8, 0.02, 64.0, 12.5, None, 0.9, 60.0, 10.0, 40, {"what shape?": 0.7})


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Relative addresses, as the defaults are; the database and its folders do not exist yet."""
    out = tmp_path_factory.mktemp("outputs")
    tracking = TrackingConfig(uri=f"sqlite:///{out}/deep/mlflow.db", artifacts=str(out / "artifacts"), experiment="e")
    return Config(output_dir=str(out), tracking=tracking)


@pytest.fixture
def run_dir(tmp_path: Path, config: Config) -> Iterator[Path]:
    folder = tmp_path / "run"
    folder.mkdir()
    save_config(config, folder / "config.yaml")
    yield folder


def metrics_of(client: Any, run_id: str) -> dict[str, float]:
    return dict(client.get_run(run_id).data.metrics)


def test_a_run_carries_its_configuration_commit_and_environment(config: Config, run_dir: Path) -> None:
    run = tracking_client(config.tracking).get_run(start_run(config, run_dir, name="mine", tags={"own": "tag"}))
    assert run.info.run_name == "mine" and run.data.tags["own"] == "tag"
    assert run.data.params == {key: str(value) for key, value in flatten(config).items()}
    assert run.data.tags["mlflow.source.git.commit"] and run.data.tags["env.torch"] == torch.__version__
    assert run.info.artifact_uri.startswith(Path(config.tracking.artifacts).as_uri())


def test_a_finished_run_has_its_metrics_and_files(config: Config, run_dir: Path) -> None:
    client, run_id = tracking_client(config.tracking), start_run(config, run_dir, name="mine")
    (run_dir / "predictions.jsonl").write_text("{}\n")
    finish_run(run_id, RESULT, run_dir)
    metrics = metrics_of(client, run_id)
    assert metrics["eval/accuracy"] == 0.8 and metrics["eval/accuracy/what shape_"] == 0.7
    assert metrics["prune/kept_tokens"] == 64 and metrics["train/peak_memory_gib"] == 0.9
    assert "train/tokens_per_second" not in metrics
    assert {"predictions.jsonl", "config.yaml"} <= {artifact.path for artifact in client.list_artifacts(run_id)}
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(config: Config, run_dir: Path) -> None:
    client, run_id = tracking_client(config.tracking), start_run(config, run_dir, name="mine", parent_run_id="p")
    client.set_terminated(run_id, "KILLED")
    changed = replace(config, optim=OptimConfig(steps=7))  # MLflow would refuse the changed parameter
    assert start_run(changed, run_dir, name="mine") == run_id
    run = client.get_run(run_id)
    assert run.info.status == "RUNNING" and run.data.tags[PARENT_TAG] == "p"
    assert run.data.params["optim.steps"] == str(config.optim.steps)


def test_a_run_that_was_deleted_in_the_dashboard_is_not_resumed(config: Config, run_dir: Path) -> None:
    client, run_id = tracking_client(config.tracking), start_run(config, run_dir, name="mine")
    client.delete_run(run_id)
    assert start_run(config, run_dir, name="mine") != run_id


def test_a_deleted_experiment_is_an_error_that_says_what_to_do(config: Config, run_dir: Path) -> None:
    tracking = replace(config.tracking, experiment="deleted")
    client = tracking_client(tracking)
    client.delete_experiment(client.create_experiment("deleted"))
    with pytest.raises(ValueError, match="tracking.experiment='deleted' was deleted.*restore"):
        start_run(replace(config, tracking=tracking), run_dir, name="mine")


class OneWeight(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"not": "wanted"})
        self.weight = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        loss = self.weight(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_logs_every_step_to_the_run_in_few_calls(
    config: Config, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_dir)
    client, logger, calls = tracking_client(config.tracking), open_logger(config, run_dir, name="mine"), []
    run_id, log_batch = logger.version, MlflowClient.log_batch
    monkeypatch.setattr(MlflowClient, "log_batch", lambda *a, **k: calls.append(a) or log_batch(*a, **k))
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=20, log_every_n_steps=1, logger=logger, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(OneWeight(), DataLoader(torch.ones(40, 1), batch_size=2))
    wait_until(lambda: not (run_dir / "mlflow_pending.jsonl").exists())
    assert [point.step for point in client.get_metric_history(run_id, "train/loss")] == list(range(20))
    assert len(calls) == 1
    run = client.get_run(run_id)
    assert run.info.status == "RUNNING"  # the evaluation is still to come
    assert "not" not in run.data.params
    assert {path.name for path in run_dir.iterdir()} == {"config.yaml", "mlflow_run_id"}  # no mlruns, no lightning_logs


def test_a_sweep_is_a_parent_run_with_a_child_for_each_run(config: Config) -> None:
    config = replace(config, sweep=SweepConfig(percents=[50.0], methods=["stts"], seeds=[0, 13], jobs=2))
    client, folder = tracking_client(config.tracking), sweep_folder(config)
    for _ in range(2):  # the second call continues the same runs
        assert run_sweep(config, command=FAKE_TRAIN, calibrate=None, console=Console(quiet=True)) == 1
    parent = client.get_run(RunDir(folder).mlflow_run_id.read_text().strip())
    experiment = client.get_experiment_by_name("e").experiment_id
    children = client.search_runs([experiment], f"tags.`{PARENT_TAG}` = '{parent.info.run_id}'")

    assert {child.info.run_name: child.info.status for child in children} == {
        "none-seed0": "FINISHED",
        "stts-k50-seed0": "FINISHED",
        "none-seed13": "FAILED",
        "stts-k50-seed13": "FAILED",
    }
    assert len(children) == 4 and {child.data.tags[KIND_TAG] for child in children} == {"run"}
    assert parent.data.tags[KIND_TAG] == "sweep"
    series = client.get_metric_history(parent.info.run_id, "accuracy/stts")
    assert [(point.step, round(point.value, 3)) for point in series] == [(50, 0.827)]
    kept = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert kept == {"results.csv", "results.md", "accuracy.png", "contact_sheet.png"}
    sheet = [child for child in children if child.info.run_name == "stts-k50-seed0"][0].info.run_id
    assert "contact_sheet.png" in {artifact.path for artifact in client.list_artifacts(sheet)}


@pytest.mark.slow
def test_two_processes_may_start_at_once_on_a_fresh_database(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from stts_lightning.config import *\n"
        "from stts_lightning.report.mlflow_runs import *\n"
        "config = Config(tracking=TrackingConfig(uri='sqlite:///m.db', artifacts='artifacts'))\n"
        "run = Path(sys.argv[1]); run.mkdir(); save_config(config, run / 'config.yaml')\n"
        "run_id = start_run(config, run, name=run.name); client = tracking_client(config.tracking)\n"
        "for step in range(20): log_metrics(client, run_id, {'x': 1.0}, step)\n"
        "finish_run(run_id, None, run)\n"
    )
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", code, name], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
        )
        for name in ("one", "two")
    ]
    said = [process.communicate(timeout=120)[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert said == ["", ""]  # no migrations, no warnings
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "m.db", "m.db.lock", "artifacts"}
