"""One run, read from top to bottom: seed, module, data, callbacks, logger, trainer, fit, evaluate, leave results.

A run whose variant is not `trained` leaves out the fit: it evaluates the model that ``init_from`` names.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException
from transformers import PreTrainedTokenizerBase

from stts_lightning.benchmark.evaluate import cells, evaluate_benchmarks, look_up, molmo2_answers, stderrs
from stts_lightning.config import Config
from stts_lightning.data.datamodule import VideoQuestionData
from stts_lightning.data.records import count_by_kind
from stts_lightning.lit.callbacks import (
    AuxLossSchedule,
    CountProblems,
    Decisions,
    DrawnPercent,
    KeptShares,
    KeptTokens,
    MethodProgress,
    RunProgress,
    StreamProgress,
    Throughput,
    peak_memory_gib,
)
from stts_lightning.lit.checkpoints import SealedCheckpoints, check_made_by, newest_sealed
from stts_lightning.lit.guard import StopAtNaN
from stts_lightning.lit.module import STTSModule
from stts_lightning.lit.strategy import build_strategy
from stts_lightning.lit.tracking import RunLogger, open_logger
from stts_lightning.lit.trust import no_code_from
from stts_lightning.lit.weights import SaveModel
from stts_lightning.metrics.accuracy import by_category, clustered_accuracy
from stts_lightning.molmo2.checkpoint import load_pruned
from stts_lightning.molmo2.load import Backbone, load_backbone
from stts_lightning.processes import is_first
from stts_lightning.report.mlflow_runs import VARIANT_TAG
from stts_lightning.runs import Result, RunDir, git_commit, hashed, write_json, write_progress, write_result


def train(config: Config, run_dir: str | Path, parent_run_id: str | None = None) -> Result:
    """Train and evaluate one configuration; everything it leaves lies in ``run_dir``.

    An interrupted run is taken up from its last checkpoint by the same call.

    Raises:
        SystemExit: the process was told to end, by SIGTERM; status 143.
        ValueError: an `inference_only` run of a method with weights that nobody has trained, or `open_logger`'s.
    """
    run = RunDir(Path(run_dir))
    run.path.mkdir(parents=True, exist_ok=True)
    if is_first():
        write_progress(run.path, "starting")
    look_up(config)  # benchmarks that are not there are better missed now than after the training
    pl.seed_everything(config.seed, workers=True, verbose=False)
    torch.set_num_threads(config.trainer.num_threads)

    module, tokenizer = _load(config)
    data = VideoQuestionData(config, tokenizer, module.warmup_steps)

    phase = "pretraining" if config.optim.dense_weight > 0 else "training"
    throughput, decisions, shares = Throughput(config.trainer.throughput_warmup), Decisions(), KeptShares()
    callbacks = [
        AuxLossSchedule(config.aux),
        MethodProgress(),
        DrawnPercent(config.prune, config.seed),
        shares,
        CountProblems(),
        StreamProgress(),
        StopAtNaN(run, config.trainer.checkpoint_every),
        KeptTokens(),
        throughput,
        decisions,
        RunProgress(run.path, phase),
        SaveModel(run.model, tokenizer),
        SealedCheckpoints(run.checkpoints, config.trainer.checkpoint_every, made_by(config)),
    ]

    logger = _open_logger(config, run, phase, parent_run_id)
    trainer = build_trainer(config, module, callbacks, logger)

    try:
        seconds = _fit_and_validate(config, run, trainer, module, data)
        result = replace(_result(config, run, module, trainer, throughput, *seconds), kept_shares=shares.shares)
        result.skipped = count_by_kind(data.problems)
        if trainer.is_global_zero:
            asked = evaluate_benchmarks(config, molmo2_answers(module.model, tokenizer, config), run.benchmarks)
            result.benchmarks, result.benchmarks_stderr = cells(asked), stderrs(asked)
            _leave_skipped(run, data)
            _leave(run, result, module, decisions)
            write_progress(run.path, "done", trainer.max_steps, trainer.max_steps, 0.0)
    except BaseException as error:
        told_to_end = isinstance(error, SIGTERMException)
        if is_first():
            _leave_skipped(run, data)
        if logger is not None:
            logger.close(None, "KILLED" if told_to_end else "FAILED")
        if told_to_end:  # Lightning's own ends the process as if all were done
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    if trainer.is_global_zero:
        if logger is not None:
            logger.close(result, "FINISHED")
        shutil.rmtree(run.checkpoints, ignore_errors=True)  # model/ holds what a finished run leaves
    return result


def _open_logger(config: Config, run: RunDir, phase: str, parent_run_id: str | None) -> RunLogger | None:
    """Of the first process; None for the others, and where nothing is tracked."""
    if not (config.tracking.enabled and is_first()):
        return None
    tags = {"phase": phase, VARIANT_TAG: config.variant}
    return open_logger(config, run.path, name=run.path.name, parent_run_id=parent_run_id, tags=tags)


def _fit_and_validate(
    config: Config, run: RunDir, trainer: pl.Trainer, module: STTSModule, data: VideoQuestionData
) -> tuple[float, float]:
    """Seconds of both. Where there is a checkpoint, the fit goes on from it."""
    started = time.perf_counter()
    if config.variant == "trained":
        resume = newest_sealed(run.checkpoints)
        if resume is not None:
            check_made_by(resume, made_by(config))
        module.train()  # a model that was loaded is in evaluation mode, and Lightning trains it as it is
        with no_code_from(resume):
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    trained = time.perf_counter()
    if is_first():
        write_progress(run.path, "evaluating", trainer.max_steps, trainer.max_steps)
    trainer.validate(module, datamodule=data, verbose=False)
    return trained - started, time.perf_counter() - trained


def made_by(config: Config) -> dict[str, Any]:
    """What a run may not be resumed without: all that its weights depend on, how many processes it has among it."""
    return {**hashed(config), "processes": config.trainer.devices * config.trainer.num_nodes}


def _load(config: Config) -> tuple[STTSModule, PreTrainedTokenizerBase]:
    """The module with its method upon the model to start from; to evaluate it in another way, the pruned model as it
    was left."""
    if config.variant in ("test_time_scaling", "other_percent"):
        assert config.init_from is not None
        dtype, attention = getattr(torch, config.backbone.dtype), config.backbone.attention
        model, handle, tokenizer = load_pruned(config.init_from, dtype=dtype, attention=attention)
        handle.percent = config.prune.percent
        return STTSModule(config, Backbone(model, tokenizer), handle), tokenizer
    backbone = load_backbone(config.backbone, config.init_from, config.trainer.accelerator)
    module = STTSModule(config, backbone)
    if config.variant == "inference_only" and any(True for _ in module.handle.scorer.parameters()):
        raise ValueError(
            f"variant=inference_only: prune.method={config.prune.method!r} has weights to learn; train it."
        )
    return module, backbone.tokenizer


def _leave_skipped(run: RunDir, data: VideoQuestionData) -> None:
    """What the training did without, or what was too much for it; no file where there is nothing to say."""
    if data.problems:
        write_json(run.skipped, [asdict(problem) for problem in data.problems])


def _leave(run: RunDir, result: Result, module: STTSModule, decisions: Decisions) -> None:
    lines = [json.dumps(prediction.row()) for prediction in module.predictions]
    run.predictions.write_text("\n".join(lines) + "\n", encoding="utf-8")
    decisions.save(run.decisions)
    write_result(run.path, result)


def _result(
    config: Config,
    run: RunDir,
    module: STTSModule,
    trainer: pl.Trainer,
    throughput: Throughput,
    train_seconds: float,
    eval_seconds: float,
) -> Result:
    predictions = module.predictions
    hits = [p.correct for p in predictions]
    accuracy = clustered_accuracy(hits, [p.video for p in predictions])
    return Result(
        method=config.prune.method,
        prune_percent=config.prune.percent,
        seed=config.seed,
        accuracy=accuracy.mean,
        accuracy_stderr=accuracy.stderr,
        kept_tokens=float(trainer.callback_metrics["prune/kept_tokens"]),
        samples_per_second=throughput.samples_per_second,
        tokens_per_second=throughput.tokens_per_second,
        peak_memory_gib=peak_memory_gib() if config.variant == "trained" else None,  # it is training's
        train_seconds=train_seconds,
        eval_seconds=eval_seconds,
        num_questions=len(predictions),
        by_category=by_category(hits, [p.category for p in predictions]),
        checkpoint=str(run.model) if config.variant == "trained" else config.init_from,
        git_commit=git_commit(),
        layer=config.prune.layer,
        max_frames=config.video.max_frames,
        variant=config.variant,
        curve=module.curve,
    )


def build_trainer(
    config: Config, module: STTSModule, callbacks: list[pl.Callback], logger: RunLogger | None
) -> pl.Trainer:
    settings = config.trainer
    if settings.progress:  # a bar that moves at every step would wait for every step
        callbacks = [*callbacks, TQDMProgressBar(refresh_rate=settings.log_every)]
    max_steps = config.optim.steps + module.warmup_steps
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=build_strategy(settings),
        precision=settings.precision,
        max_steps=max_steps,
        accumulate_grad_batches=config.optim.accumulate,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        # In batches; without it never: evaluated once, after training.
        val_check_interval=(settings.eval_every or max_steps + 1) * config.optim.accumulate,
        log_every_n_steps=settings.log_every,
        enable_progress_bar=settings.progress,
        enable_model_summary=False,
        use_distributed_sampler=False,  # StepSampler shares the data out itself
        callbacks=callbacks,
        logger=logger or False,
    )


def describe(result: Result) -> str:
    """One line on a finished run."""
    stderr = "" if result.accuracy_stderr is None else f" +- {result.accuracy_stderr:.3f}"
    skipped = ", ".join(f"{kind} {lost}" for kind, lost in result.skipped.items())
    return (
        f"{result.method} k={result.prune_percent:g} seed={result.seed}: accuracy {result.accuracy:.3f}{stderr}, "
        f"{result.kept_tokens:.0f} vision tokens a clip; "
        + ", ".join(f"{k} {v:.2f}" for k, v in asdict(result)["by_category"].items())
        + (f"; questions skipped in training: {skipped}" if skipped else "")
    )
