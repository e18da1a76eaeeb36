"""Evaluate a saved model, at the share it was trained with or another."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import torch

from stts_lightning.benchmark.evaluate import evaluate_benchmarks, molmo2_answers
from stts_lightning.config import Config
from stts_lightning.data.datamodule import VideoQuestionData
from stts_lightning.lit.module import STTSModule
from stts_lightning.metrics.accuracy import by_category, clustered_accuracy
from stts_lightning.molmo2.checkpoint import load_pruned
from stts_lightning.molmo2.load import Backbone


def evaluate(config: Config, model: Path, percent: float | None = None) -> float:
    """Print and return the accuracy of the model folder on the evaluation data of ``config``."""
    pl.seed_everything(config.seed, workers=True, verbose=False)
    torch.set_num_threads(config.trainer.num_threads)
    pruned = load_pruned(model, dtype=getattr(torch, config.backbone.dtype), attention=config.backbone.attention)
    if percent is not None:
        pruned.handle.percent = percent
    module = STTSModule(config, Backbone(pruned.model, pruned.tokenizer), pruned.handle)
    data = VideoQuestionData(config, pruned.tokenizer)
    settings = config.trainer
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=1,
        precision=settings.precision,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=settings.progress,
    )
    trainer.validate(module, datamodule=data, verbose=False)
    hits = [p.correct for p in module.predictions]
    accuracy = clustered_accuracy(hits, [p.video for p in module.predictions])
    stderr = "" if accuracy.stderr is None else f" +- {accuracy.stderr:.3f} (clustered by video)"
    prune = pruned.handle.config
    print(f"{model}: {prune.method}, k={prune.percent:g} %, {len(hits)} questions")
    print(f"accuracy {accuracy.mean:.3f}{stderr}")
    for category, value in by_category(hits, [p.category for p in module.predictions]).items():
        print(f"  {category} {value:.3f}")
    answers = molmo2_answers(pruned.model, pruned.tokenizer, config)
    evaluate_benchmarks(config, answers, model.parent / "benchmarks")
    return accuracy.mean
