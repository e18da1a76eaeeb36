"""One sweep for each domain of the generated set and each pretrained checkpoint, and one table of all of them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

from stts_lightning.config import EXPERIMENTS_DIR, Config, domain_names, load_config, with_domain
from stts_lightning.report.domains import Swept, write_domains
from stts_lightning.report.write import point_latest
from stts_lightning.runs import digest, hashed, own_values
from stts_lightning.sweep import run_sweep
from stts_lightning.sweep.folders import finished_runs
from stts_lightning.sweep.plan import pretrain_job, sweep_folder

OF_EACH_RUN = ("seed", "backbone.tiny.seed", "prune.method", "prune.percent")
MORE_CHECKPOINTS = 10  # looked for beside those that were asked for


def run_domains(config: Config) -> int:
    """The exit status: of the first sweep that failed or was stopped, which ends the experiment, else 0.

    The same call goes on where it ended. The tables are of all that there is by then with these settings, whichever
    call has run it: other methods and percentages, other domains and checkpoints.
    """
    asked = config.experiment
    status = 0
    for checkpoint, domain in itertools.product(asked.checkpoints, asked.domains):
        status = status or run_sweep(sweep_of(config, domain, checkpoint))
    there = {domain: with_domain(config, domain) for domain in domain_names()}
    known = itertools.product(sorted({*asked.checkpoints, *range(MORE_CHECKPOINTS)}), there)
    swept = [left(there[domain], domain, checkpoint) for checkpoint, domain in known]
    out = Path(config.output_dir) / "experiments" / f"{asked.name}-{digest(own_values(config))}"
    files = write_domains([sweep for sweep in swept if sweep.results], own_settings(config), out)
    point_latest(out, asked.name)
    print("Written: " + ", ".join(map(str, files)))
    return status


def own_settings(config: Config) -> str:
    """What changes the runs and is not as the experiment's file has it, beside what each run of it has of its own."""
    experiment = config.experiment.name
    known = (EXPERIMENTS_DIR / f"{experiment}.yaml").is_file()
    usual = hashed(load_config(experiment=experiment if known else None))
    own = {key: value for key, value in hashed(config).items() if usual.get(key) != value}
    return "; ".join(f"{key}={value}" for key, value in own.items() if key not in OF_EACH_RUN)


def sweep_of(config: Config, domain: str, checkpoint: int) -> Config:
    """The configuration of the sweep in one domain from one checkpoint."""
    return from_checkpoint(with_domain(config, domain), checkpoint)


def from_checkpoint(config: Config, checkpoint: int) -> Config:
    """A checkpoint has its own initial weights and its own order of the pretraining's data."""
    tiny = replace(config.backbone.tiny, seed=checkpoint)
    return replace(config, seed=checkpoint, backbone=replace(config.backbone, tiny=tiny))


def left(config: Config, domain: str, checkpoint: int) -> Swept:
    """The finished runs of one sweep, of which ``config`` has the ``domain``; none where it was never started."""
    config = from_checkpoint(config, checkpoint)
    pretraining = pretrain_job(config)
    if pretraining is not None:
        config = replace(config, init_from=str(pretraining.folder.model))
    folder = sweep_folder(config)
    return Swept(domain, checkpoint, folder, finished_runs(config, folder) if folder.is_dir() else {})
