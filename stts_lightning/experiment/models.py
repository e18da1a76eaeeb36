"""The models that an experiment's sweep has left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from stts_lightning.config import Config
from stts_lightning.runs import RunDir
from stts_lightning.sweep.plan import plan, pretrain_job, report_folder, sweep_folder


class Left(NamedTuple):
    """``folder`` is of the runs, ``out`` of the tables; ``models`` are model folders by the run's name."""

    config: Config  # as the runs have it, with the checkpoint that they start from
    folder: Path
    out: Path
    models: dict[str, Path]


def models_left(config: Config) -> Left:
    pretraining = pretrain_job(config)
    if pretraining is not None:
        config = replace(config, init_from=str(pretraining.folder.model))
    folder = sweep_folder(config)
    jobs = [job for job in plan(config, folder) if job.config.variant == "trained"]
    models = {job.name: RunDir(folder / job.name).model for job in jobs}
    return Left(config, folder, report_folder(config, folder), models)
