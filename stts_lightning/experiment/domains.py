"""One sweep for each domain of the generated set and each pretrained checkpoint, and one table of all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stts_lightning.config import Config, with_domain
from stts_lightning.report.domains import Swept, write_domains
from stts_lightning.sweep import run_sweep
from stts_lightning.sweep.folders import finished_runs
from stts_lightning.sweep.plan import plan, pretrain_job, sweep_folder


def run_domains(config: Config) -> int:
    """The exit status: of the first sweep that failed or was stopped, which ends the experiment, else 0.

    The same call goes on where it ended; the tables are of what there is by then.
    """
    asked = config.experiment
    status = 0
    for checkpoint in asked.checkpoints:
        for domain in asked.domains:
            status = status or run_sweep(sweep_of(config, domain, checkpoint))
    swept = [left(config, domain, checkpoint) for checkpoint in asked.checkpoints for domain in asked.domains]
    out = Path(config.output_dir) / "experiments" / asked.name
    print("Written: " + ", ".join(map(str, write_domains(swept, out))))
    return status


def sweep_of(config: Config, domain: str, checkpoint: int) -> Config:
    """A checkpoint has its own initial weights and its own order of the pretraining's data."""
    config = with_domain(config, domain)
    tiny = replace(config.backbone.tiny, seed=checkpoint)
    return replace(config, seed=checkpoint, backbone=replace(config.backbone, tiny=tiny))


def left(config: Config, domain: str, checkpoint: int) -> Swept:
    """What is there of one sweep: its finished runs, of those that were asked for."""
    config = sweep_of(config, domain, checkpoint)
    pretraining = pretrain_job(config)
    if pretraining is not None:
        config = replace(config, init_from=str(pretraining.folder.model))
    folder = sweep_folder(config)
    names = {job.name for job in plan(config, folder)}
    results = finished_runs(config, folder) if folder.is_dir() else {}
    return Swept(domain, checkpoint, folder, {name: result for name, result in results.items() if name in names})
