"""How fast is this machine? A few real clips made, read and trained on, in a few seconds."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stts_lightning.config import Config
from stts_lightning.data.datamodule import VideoQuestionData
from stts_lightning.data.generate import make_clip
from stts_lightning.lit.module import STTSModule
from stts_lightning.molmo2.load import load_backbone

NUM_CLIPS = 8
TIMED_STEPS = 2


def calibrate(config: Config) -> dict[str, Any]:
    """Seconds a clip: ``make_s`` to generate, ``read_s`` to decode, ``step_s`` {threads: to train on it}.

    The clips are those of ``config.data.train``, or a few of the embedded set's kind; the tiny model is built
    anew, and nothing is left behind.
    """
    with tempfile.TemporaryDirectory() as folder:
        make_s = _make(Path(folder), config)
        data = replace(config.data, num_workers=0, frame_cache_dir=None)
        if data.train is None:
            data = replace(data, train=f"{folder}/train.jsonl", eval=f"{folder}/train.jsonl")
        config = replace(config, data=data)
        backbone = load_backbone(config.backbone)
        module, loader = STTSModule(config, backbone), VideoQuestionData(config, backbone.tokenizer)
        loader.setup()
        batches = loader.train_dataloader().loader
        dataset = batches.dataset
        dataset[0]  # starts the decoder's process
        started = time.perf_counter()
        samples = [dataset[i % len(dataset)] for i in range(1, 1 + NUM_CLIPS)]
        read_s = (time.perf_counter() - started) / NUM_CLIPS
        batch = batches.collate_fn(samples)
        batch = loader.on_after_batch_transfer(batch, 0)
    threads = {config.trainer.num_threads, config.pretrain.num_threads}
    return {"make_s": make_s, "read_s": read_s, "step_s": {n: _step(module, batch, n) / NUM_CLIPS for n in threads}}


def _make(folder: Path, config: Config) -> float:
    (folder / "train").mkdir()
    started = time.perf_counter()
    rows = [row for i in range(NUM_CLIPS + 1) for row in make_clip((folder, "train", i, config.data.generated))]
    seconds = (time.perf_counter() - started) / (NUM_CLIPS + 1)
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return seconds


def _step(module: STTSModule, batch: dict[str, Any], threads: int) -> float:
    torch.set_num_threads(threads)
    optimizer = module.configure_optimizers()["optimizer"]
    for i in range(1 + TIMED_STEPS):
        if i == 1:  # the first one warms up
            started = time.perf_counter()
        out = module(batch, labels=batch["labels"], loss_weights=batch["loss_weights"])
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return (time.perf_counter() - started) / TIMED_STEPS
