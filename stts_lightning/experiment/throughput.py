"""Tables 6 and 7: the benchmark of speed, kept in MLflow beside the sweeps."""

from __future__ import annotations

from pathlib import Path

from stts_lightning.bench.main import bench
from stts_lightning.bench.write import page
from stts_lightning.config import Config, save_config
from stts_lightning.report import mlflow_runs
from stts_lightning.report.client import told_if_away, tracking_client
from stts_lightning.runs import RunDir


def measure(config: Config) -> int:
    """Measure the tables that the experiment names; every call is a run of its own in MLflow.

    Raises:
        ValueError: it names no table, or one that there is not.
    """
    experiment = config.experiment
    if not experiment.tables:
        raise ValueError("experiment.tables is empty: name the benchmark's tables, such as [train].")
    folder = Path(config.output_dir) / "experiments" / experiment.name
    folder.mkdir(parents=True, exist_ok=True)
    save_config(config, RunDir(folder).config)
    shapes = [(videos, frames) for videos, frames in experiment.shapes] or None
    results = bench(folder, rounds=experiment.rounds, only=experiment.tables, shapes=shapes)
    if config.tracking.enabled:
        RunDir(folder).mlflow_run_id.unlink(missing_ok=True)  # an earlier measurement stays as it is
        tags = {mlflow_runs.KIND_TAG: "bench", mlflow_runs.QUICK_TAG: str(config.sweep.quick)}
        with told_if_away(config.tracking, f"The numbers are in {folder}; MLflow has them after another call alone."):
            run_id = mlflow_runs.start_run(config, folder, name=experiment.name, tags=tags)
            client = tracking_client(config.tracking)
            mlflow_runs.log_files(client, run_id, (folder / name for name in ("bench.json", "bench.md", "bench.png")))
            mlflow_runs.finish_run(run_id, None, folder)
    print(page(results))
    print(f"in {folder}/: bench.json, bench.md, bench.png")
    return 0
