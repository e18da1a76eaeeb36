"""Runs that train nothing, on real models: what they evaluate is the model of another run, with other settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest

from stts_lightning.config import Config, SweepConfig, load_config, save_config
from stts_lightning.data.datamodule import VideoQuestionData
from stts_lightning.lit.module import STTSModule
from stts_lightning.molmo2.checkpoint import load_pruned
from stts_lightning.molmo2.load import Backbone, tiny_tokenizer
from stts_lightning.runs import Result, RunDir
from stts_lightning.sweep.plan import Job, plan
from stts_lightning.train import train

SMALL = [
    "data.generated.train_videos=8", "data.generated.eval_videos=3", "tracking.enabled=false",
    "optim.batch_size=2", "optim.warmup_steps=2", "aux.scorer_warmup_steps=2", "trainer.accelerator=cpu",
    "trainer.progress=false", "pretrain.enabled=false", "optim.steps=4",
    "data=generated_uniform",
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("variants")


@pytest.fixture(scope="module")
def config(root: Path) -> Config:
    sweep = SweepConfig([50.0], ["stts"], ["heuristic"], test_time_scaling=True)
    config = load_config(
        [*SMALL, f"data.generated.root={root / 'set'}", f"output_dir={root}", f"data.frame_cache_dir={root}/frames"]
    )
    return replace(config, sweep=sweep)


@pytest.fixture(scope="module")
def jobs(config: Config, root: Path) -> dict[str, Job]:
    return {job.name: job for job in plan(config, root / "sweep")}


@pytest.fixture(scope="module")
def results(jobs: dict[str, Job]) -> dict[str, Result]:
    results = {}
    for name, job in jobs.items():  # as they are planned
        job.folder.path.mkdir(parents=True)
        save_config(job.config, job.folder.config)
        results[name] = train(job.config, job.folder.path)
    return results


def predictions(job: Job) -> list[dict[str, object]]:
    return [json.loads(line) for line in job.folder.predictions.read_text().splitlines()]


def test_inference_only_is_the_unpruned_model_with_this_method(
    jobs: dict[str, Job], results: dict[str, Result]
) -> None:
    job, result = jobs["heuristic-k50-inference_only-seed0"], results["heuristic-k50-inference_only-seed0"]
    assert result.variant == "inference_only"
    assert result.kept_tokens == 8 * 16 / 2 and results["none-seed0"].kept_tokens == 8 * 16
    assert result.samples_per_second is None and not job.folder.model.exists()
    assert result.checkpoint == str(jobs["none-seed0"].folder.model)

    by_hand = answers(job.config, STTSModule(job.config, unscored(jobs["none-seed0"].folder)))
    assert [p["letter_scores"] for p in predictions(job)] == by_hand
    assert by_hand != [p["letter_scores"] for p in predictions(jobs["none-seed0"])]


def test_test_time_scaling_is_the_trained_model_with_its_scorer_on_more_frames(
    jobs: dict[str, Job], results: dict[str, Result]
) -> None:
    job, result = jobs["stts-k50-test_time_scaling-seed0"], results["stts-k50-test_time_scaling-seed0"]
    trained = jobs["stts-k50-seed0"]
    assert (result.max_frames, results["stts-k50-seed0"].max_frames) == (16, 8)
    assert result.variant == "test_time_scaling"
    assert result.kept_tokens == results["none-seed0"].kept_tokens == 8 * 16
    assert (np.load(job.folder.decisions)["num_frames"] == 16).all()
    assert [p["id"] for p in predictions(job)] == [p["id"] for p in predictions(trained)]

    pruned = load_pruned(trained.folder.model)
    module = STTSModule(job.config, Backbone(pruned.model, pruned.tokenizer), pruned.handle)
    assert [p["letter_scores"] for p in predictions(job)] == answers(job.config, module)
    fresh = STTSModule(job.config, unscored(trained.folder))  # another scorer keeps other windows
    assert [p["letter_scores"] for p in predictions(job)] != answers(job.config, fresh)


def test_one_model_serves_another_percentage_and_shows_its_curve(config: Config, root: Path) -> None:
    sweep = SweepConfig([80.0, 50.0], ["stts_saliency"], unpruned=False)
    config = replace(config, sweep=sweep, prune=replace(config.prune, percent_range=[50.0, 80.0]))
    config = replace(config, trainer=replace(config.trainer, eval_every=3), data=replace(config.data, name="generated"))
    trained, other = plan(config, root / "range")
    done = []
    for job in (trained, other):
        job.folder.path.mkdir(parents=True)
        save_config(job.config, job.folder.config)
        done.append(train(job.config, job.folder.path))
    assert [(r.prune_percent, r.kept_tokens, r.variant) for r in done] == [
        (80, 26, "trained"),
        (50, 64, "other_percent"),
    ]
    assert [step for step, _ in done[0].curve] == [3, 6, 6] and done[0].curve[-1][1] == done[0].accuracy
    assert len(done[1].curve) == 1 and set(done[0].kept_shares) == {"background", "static", "flicker", "event"}
    assert np.load(trained.folder.decisions)["keep"].sum((1, 2)).tolist() == [26] * 3  # of the last evaluation alone


def unscored(folder: RunDir) -> Backbone:
    """A run's model without its scorer."""
    pruned = load_pruned(folder.model)
    pruned.handle.remove()
    return Backbone(pruned.model, pruned.tokenizer)


def answers(config: Config, module: STTSModule) -> list[list[float]]:
    """The letters' scores."""
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.validate(module, datamodule=VideoQuestionData(config, tiny_tokenizer()), verbose=False)
    return [list(prediction.letter_scores) for prediction in module.predictions]


def test_a_method_with_weights_is_not_evaluated_untrained(jobs: dict[str, Job], tmp_path: Path) -> None:
    job = jobs["heuristic-k50-inference_only-seed0"]
    config = replace(job.config, prune=replace(job.config.prune, method="stts"), init_from=None, variant="trained")
    config.variant = "inference_only"
    with pytest.raises(ValueError, match="'stts' has weights to learn"):
        train(config, tmp_path)
