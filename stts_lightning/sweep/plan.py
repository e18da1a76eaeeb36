"""What a sweep runs, with which configuration and in which folder."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from stts_lightning.config import AuxConfig, BenchmarkConfig, Config, PruneConfig, flatten, with_method
from stts_lightning.runs import RunDir, config_hash, digest, hashed


@dataclass(frozen=True)
class Job:
    """One run to do."""

    kind: str  # run or pretrain
    folder: RunDir
    config: Config

    @property
    def name(self) -> str:
        return "pretrain" if self.kind == "pretrain" else self.folder.path.name

    @property
    def finished(self) -> bool:
        return self.folder.finished and (self.kind == "run" or self.folder.model.is_dir())


def plan(config: Config, folder: Path) -> list[Job]:
    """The baseline a seed, then each percentage x method x seed; none twice."""
    sweep = config.sweep
    wanted = [("none", 0.0, seed) for seed in sweep.seeds]
    wanted += [(m, k, seed) for k in sweep.percents for m in sweep.methods if m != "none" for seed in sweep.seeds]
    return [
        Job("run", RunDir(folder / run_name(method, percent, seed)), run_config(config, method, percent, seed))
        for method, percent, seed in dict.fromkeys(wanted)
    ]


def run_name(method: str, percent: float, seed: int) -> str:
    return f"none-seed{seed}" if method == "none" else f"{method}-k{percent:g}-seed{seed}"


def run_config(config: Config, method: str, percent: float, seed: int) -> Config:
    """One run's configuration, derived from the sweep's."""
    config = with_method(config, method)
    return replace(config, seed=seed, prune=replace(config.prune, method=method, percent=percent, seed=seed))


def pretrain_config(config: Config) -> Config:
    """The run that makes the checkpoint that the others start from: unpruned, on the generated set."""
    pretrain = config.pretrain
    optim = replace(
        config.optim,
        steps=pretrain.steps,
        batch_size=pretrain.batch_size,
        accumulate=1,
        lr_language=pretrain.lr,
        lr_vision=pretrain.lr,
        lr_scorer=pretrain.lr,
        warmup_steps=pretrain.warmup_steps,
        dense_weight=pretrain.dense_weight,
    )
    return replace(
        config,
        init_from=None,
        prune=PruneConfig(method="none", layer=0),
        aux=AuxConfig(),
        optim=optim,
        data=replace(config.data, name="generated", train=None, eval=None, num_workers=pretrain.num_workers),
        trainer=replace(config.trainer, num_threads=pretrain.num_threads),
        benchmark=BenchmarkConfig(),
        pretrain=replace(pretrain, enabled=False),  # it is what the others start from
    )


def pretrain_job(config: Config) -> Job | None:
    """The pretraining run, in a folder that every sweep with the same pretraining shares; None if there is none."""
    if not config.pretrain.enabled or config.init_from is not None:
        return None
    config = pretrain_config(config)
    return Job("pretrain", RunDir(Path(config.output_dir) / "pretrained" / config_hash(config)), config)


def sweep_folder(config: Config) -> Path:
    """``<output_dir>/sweeps/<backbone>-<data>-<hash of what every run of the sweep shares>``.

    The hash covers the bytes of the question files as well: other questions are another sweep.
    """
    of_one_run = ("seed", "prune.method", "prune.percent", "prune.seed")
    shared = {key: value for key, value in hashed(config).items() if key not in of_one_run}
    for key in ("data.train", "data.eval"):
        path = flatten(config)[key]
        if path is not None and Path(path).is_file():
            shared[key] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    names = [re.sub(r"[^\w.]+", "_", name) for name in (config.backbone.name, config.data.name)]
    return Path(config.output_dir) / "sweeps" / "-".join([*names, digest(shared)])
