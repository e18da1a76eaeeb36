"""A tracking database with sweeps, written through the project's own functions; the runs are made up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from databases import empty_database
from report.fake_train import result, write_decisions, write_predictions

from stts_lightning.config import Config, PruneConfig, SweepConfig, TrackingConfig, save_config
from stts_lightning.report.mlflow_runs import finish_run, log_files, log_metrics, start_run, tracking_client
from stts_lightning.runs import RunDir, git_commit, write_json, write_result


def fresh(folder: Path) -> TrackingConfig:
    """An empty database in ``folder``."""
    empty_database(folder / "mlflow.db")
    return tracking_in(folder)


@dataclass(frozen=True)
class Fake:
    """One finished run to record."""

    method: str
    percent: float = 50.0
    seed: int = 0
    accuracy: float = 0.8
    layer: int = 0
    variant: str = "trained"
    decisions: bool = False  # kept with the run
    frames: int = 64
    benchmarks: Mapping[str, float] = field(default_factory=dict)
    more: Mapping[str, float] = field(default_factory=dict)  # metrics by their whole name


def tracking_in(folder: Path) -> TrackingConfig:
    return TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db", artifacts=str(folder / "artifacts"), experiment="tried")


def record_sweep(
    tracking: TrackingConfig,
    folder: Path,
    experiment: str,
    runs: Iterable[Fake],
    *,
    quick: bool = False,
    pictures: Mapping[str, bytes] | None = None,
) -> str:
    """A parent run and its finished children, with tags and files as a sweep leaves them; gives the parent's id."""
    config = Config(output_dir=str(folder), sweep=SweepConfig(quick=quick), tracking=tracking)
    folder.mkdir(parents=True)
    save_config(config, RunDir(folder).config)
    tags = {"stts.experiment": experiment}
    parent = start_run(config, folder, name=folder.name, tags={"stts.kind": "sweep", "stts.quick": str(quick), **tags})
    for fake in runs:
        _record_run(config, folder, fake, parent, tags)
    client = tracking_client(tracking)
    for name, body in (pictures or {}).items():
        (folder / name).write_bytes(body)
        log_files(client, parent, [folder / name])
    client.set_terminated(parent, "FINISHED")
    return parent


def record_bench(tracking: TrackingConfig, folder: Path, experiment: str, body: dict[str, Any]) -> None:
    """A bench, which is no child of anything."""
    config = Config(output_dir=str(folder), tracking=tracking)
    folder.mkdir(parents=True)
    save_config(config, RunDir(folder).config)
    tags = {"stts.kind": "bench", "stts.experiment": experiment}
    run_id = start_run(config, folder, name=folder.name, tags=tags)
    write_json(folder / "bench.json", body)
    client = tracking_client(tracking)
    log_files(client, run_id, [folder / "bench.json"])
    client.set_terminated(run_id, "FINISHED")


def bench_body(table: str, ms: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    """What a bench writes: milliseconds by shape and run; its speed-ups follow."""
    rows = [
        {"shape": shape, "run": run, "tokens": 1000, "ms": value, "peak_mib": 512.0, "decode_ms_per_token": 5.5,
         "generate_ms": 2 * value, "over_own_0": ms[shape, "0"] / value, "over_stock": None}
        for (shape, run), value in ms.items()
    ]  # fmt: skip
    return {
        "machine": {"processor": "a processor", "threads": 2, "device": "cpu"},
        "settings": {"size": "small", "rounds": 5},
        "commit": git_commit(),
        "tables": {table: rows},
    }


def _record_run(config: Config, folder: Path, fake: Fake, parent: str, tags: Mapping[str, str]) -> None:
    name = f"{fake.method}-k{fake.percent:g}-l{fake.layer}-{fake.variant}-seed{fake.seed}"
    run = RunDir(folder / name)
    run.path.mkdir()
    prune = PruneConfig(method=fake.method, percent=fake.percent, layer=fake.layer)
    mine = replace(config, seed=fake.seed, prune=prune, video=replace(config.video, max_frames=fake.frames))
    save_config(mine, run.config)
    tags = {**tags, "stts.kind": "run", "stts.variant": fake.variant}
    run_id = start_run(mine, run.path, name=name, parent_run_id=parent, tags=tags)
    write_predictions(run, mine)
    if fake.decisions:
        write_decisions(run, mine)
    outcome = replace(result(mine), accuracy=fake.accuracy)
    write_result(run.path, outcome)
    values = {f"eval/benchmark/{key}": value for key, value in fake.benchmarks.items()}
    values |= {f"eval/benchmark_stderr/{key}": 0.012 for key in fake.benchmarks}
    values |= fake.more
    log_metrics(tracking_client(config.tracking), run_id, values, step=0)
    finish_run(run_id, outcome, run.path)
