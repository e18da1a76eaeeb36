"""A comparison row of Table 1: another model asked the same questions, kept in MLflow for the report."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import torch
from omegaconf import OmegaConf

from stts_lightning.benchmark.declare import Benchmark
from stts_lightning.benchmark.evaluate import Results, cells, evaluate_benchmarks, stderrs
from stts_lightning.benchmark.subtitles import subtitle_text
from stts_lightning.config import Config, PruneConfig, save_config
from stts_lightning.hosts.answer import Host, HostAnswerer, build_answerer, load_host_model
from stts_lightning.hosts.declare import load_host
from stts_lightning.report import mlflow_runs
from stts_lightning.report.client import told_if_away, tracking_client
from stts_lightning.runs import RunDir


def benchmark_host(config: Config, name: str, out: Path | None = None) -> Results:
    """Ask a model of conf/host/ the benchmarks of ``config.benchmark.names``, unpruned.

    Args:
        name: of a file in conf/host/, or a YAML file's path.
        out: where predictions, numbers and the declaration are left; None: ``<output_dir>/hosts/<name>``.

    Raises:
        ValueError: no such declaration, no such checkpoint, or what `load_items` raises.
    """
    spec = load_host(name)
    torch.set_num_threads(config.trainer.num_threads)
    config = replace(config, prune=PruneConfig(method="none", percent=0.0))
    run = RunDir(out or Path(config.output_dir) / "hosts" / spec.name)

    @cache
    def host() -> Host:
        return load_host_model(spec, "cpu" if config.trainer.accelerator == "cpu" else None)

    def answerer_of(benchmark: Benchmark) -> HostAnswerer:
        return build_answerer(
            spec,
            host=host(),
            max_new_tokens=benchmark.max_new_tokens,
            subtitle_text=subtitle_text,
            frames_fps=benchmark.media.frames_fps,
            timeout_s=config.video.decode_timeout_s,
        )

    results = evaluate_benchmarks(config, answerer_of, run.benchmarks)
    save_config(config, run.config)
    declaration = run.path / "host.yaml"
    OmegaConf.save(OmegaConf.create(asdict(spec)), declaration)
    if config.tracking.enabled:
        run.mlflow_run_id.unlink(missing_ok=True)  # an earlier evaluation stays as it is
        tags = {mlflow_runs.KIND_TAG: "host", mlflow_runs.HOST_TAG: spec.name}
        values = mlflow_runs.benchmark_metrics(cells(results), stderrs(results))
        with told_if_away(config.tracking, f"The answers are in {run.path}; the same command logs them."):
            run_id = mlflow_runs.start_run(config, run.path, name=spec.name, tags=tags)
            client = tracking_client(config.tracking)
            mlflow_runs.log_metrics(client, run_id, values, step=0)
            mlflow_runs.log_files(client, run_id, [declaration])
            mlflow_runs.finish_run(run_id, None, run.path)
    return results
