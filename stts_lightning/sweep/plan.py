"""What a sweep runs, with which configuration and in which folder."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stts_lightning.config import (
    FIXED_PERCENT,
    AuxConfig,
    BenchmarkConfig,
    Config,
    DataConfig,
    PruneConfig,
    VideoConfig,
    flatten,
    with_domain,
)
from stts_lightning.runs import RunDir, config_hash, digest, own_values
from stts_lightning.sweep.run import Run, run_config, trained_run

PLAIN = ("", "sweep", "quick")  # what `make sweep` runs: its tables hold all runs of the folder


@dataclass(frozen=True)
class Job:
    """One run to do, once the run of the folder ``after`` has left its model."""

    kind: str  # run or pretrain
    folder: RunDir
    config: Config
    after: RunDir | None = None

    @property
    def name(self) -> str:
        return "pretrain" if self.kind == "pretrain" else self.folder.path.name

    @property
    def finished(self) -> bool:
        return self.folder.finished and (self.kind == "run" or self.folder.model.is_dir())

    @property
    def ready(self) -> bool:
        return self.after is None or (self.after.finished and self.after.model.is_dir())


def plan(config: Config, folder: Path) -> list[Job]:
    """The baseline a seed, each percentage x method x layer x seed, and what is evaluated on those; none twice.

    Where one model is trained for a range of percentages, it is named by the first of ``sweep.percents`` and evaluated
    at the others.

    Raises:
        ValueError: a method that has to be trained is to be put on a model as it is.
    """
    sweep = config.sweep
    _check_inference_only(sweep.inference_only)
    layers = [None if layer == config.prune.layer else layer for layer in sweep.layers] or [None]
    trained = [Run("none", 0.0, seed) for seed in sweep.seeds if sweep.unpruned or sweep.inference_only]
    untrained = []
    for percent, layer in itertools.product(sweep.percents, layers):
        runs = [trained_run(m, percent, seed, layer) for m in sweep.methods for seed in sweep.seeds]
        if config.prune.percent_range and percent != sweep.percents[0]:
            untrained += [_at_other_percent(run, sweep.percents[0]) for run in runs if run.method not in FIXED_PERCENT]
        else:
            trained += runs
        untrained += [
            Run(m, percent, seed, layer, "inference_only") for m in sweep.inference_only for seed in sweep.seeds
        ]
    wanted = trained + untrained
    if sweep.test_time_scaling:
        wanted += [replace(run, variant="test_time_scaling") for run in trained if 0 < run.percent < 100]
    return [job_of(run, config, folder) for run in dict.fromkeys(wanted)]


def _at_other_percent(run: Run, trained_at: float) -> Run:
    return replace(run, variant="other_percent", trained_at=trained_at)


def job_of(run: Run, config: Config, folder: Path) -> Job:
    after = None if run.source is None else RunDir(folder / run.source.name)
    return Job("run", RunDir(folder / run.name), run_config(config, run, folder), after)


def _check_inference_only(methods: Sequence[str]) -> None:
    if not methods:
        return
    from stts_lightning.prune.registry import Host, build_scorer

    for method in methods:
        if method in FIXED_PERCENT:
            raise ValueError(f"sweep.inference_only: {method!r} has no percentage. Name it in sweep.methods.")
        if any(True for _ in build_scorer(method, Host(dim=8, num_heads=1)).parameters()):
            raise ValueError(f"sweep.inference_only: {method!r} has weights to learn. Name it in sweep.methods.")


def pretrain_config(config: Config) -> Config:
    """The run that makes the checkpoint that the others start from: unpruned, on the generated set."""
    pretrain = config.pretrain
    if pretrain.domain is not None:
        config = with_domain(config, pretrain.domain)
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
    data = replace(config.data, name="generated", train=None, eval=None, num_workers=pretrain.num_workers)
    # How the runs are evaluated, and what they are asked at a time, does not matter here.
    data = replace(data, eval_split=DataConfig.eval_split, questions_per_clip=DataConfig.questions_per_clip)
    return replace(
        config,
        init_from=None,
        prune=PruneConfig(method="none", layer=0),
        aux=AuxConfig(),
        optim=optim,
        video=replace(config.video, fps=VideoConfig.fps, max_frames=VideoConfig.max_frames),  # as the set is labelled
        data=data,
        trainer=replace(
            config.trainer,
            num_threads=pretrain.num_threads,
            devices=1,
            num_nodes=1,
            strategy="auto",
            offload=False,
            eval_every=None,
        ),
        benchmark=BenchmarkConfig(),
        pretrain=replace(pretrain, enabled=False, domain=None),  # it is what the others start from
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
    shared = {key: value for key, value in own_values(config).items() if key not in of_one_run}
    for key in ("data.train", "data.eval"):
        path = flatten(config)[key]
        if path is not None and Path(path).is_file():
            shared[key] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    names = [re.sub(r"[^\w.]+", "_", name) for name in (config.backbone.name, config.data.name)]
    return Path(config.output_dir) / "sweeps" / "-".join([*names, digest(shared)])


def report_folder(config: Config, folder: Path) -> Path:
    """Where the tables of a sweep go: beside its runs, or for an experiment into its own folder, for experiments
    share their runs."""
    name = config.experiment.name
    if name in PLAIN:
        return folder
    return Path(config.output_dir) / "experiments" / f"{name}-{folder.name}"
