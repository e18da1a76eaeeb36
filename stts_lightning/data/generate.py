"""The embedded video-question set: real H.264 files and their questions, made once from a seed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stts_lightning.config import GeneratedConfig
from stts_lightning.data.paint import paint
from stts_lightning.data.scene import ask, dense_labels, draw_scene, window_contents
from stts_lightning.video.write import write_h264

FORMAT = 2  # raise it when scenes, questions or encoding change: old sets are then made anew
LATER_KNOBS = ("flicker_grain", "num_decoys", "decoy", "decoy_slots", "camera_pixels")
SPLIT_SEEDS = {"train": 0, "test": 1, "validation": 2}


class GeneratedSet(NamedTuple):
    """JSON Lines files; no clip is in two of them. What is chosen is chosen on `validation`, `test` is for the end."""

    train: Path
    validation: Path
    test: Path


def generated_set(config: GeneratedConfig, say: Callable[[str], None] = print) -> GeneratedSet:
    """The JSON Lines files of the set, made if they are not there yet.

    The folder's name is a digest of the configuration; it appears whole or not at all, so a killed
    generation leaves nothing that looks finished.
    """
    folder = Path(config.root) / _digest(config)
    if not folder.is_dir():
        say(f"Making {config.train_videos} + 2 x {config.eval_videos} clips in {folder}, once.")
        building = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        _build(building, config)
        try:
            building.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(building)
    return GeneratedSet(*(folder / f"{split}.jsonl" for split in GeneratedSet._fields))


def _digest(config: GeneratedConfig) -> str:
    """Of all that a clip follows from. A later knob counts only where it is turned, as it then changes a clip."""
    default = GeneratedConfig()
    values = {k: v for k, v in asdict(config).items() if k not in LATER_KNOBS or v != getattr(default, k)}
    key = json.dumps({**values, "root": "", "format": FORMAT}, sort_keys=True)
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def _build(folder: Path, config: GeneratedConfig) -> None:
    jobs = []
    for split, count in zip(SPLIT_SEEDS, (config.train_videos, config.eval_videos, config.eval_videos), strict=True):
        (folder / split).mkdir(parents=True)
        jobs += [(folder, split, i, config) for i in range(count)]
    # Spawned, not forked: the caller may hold threads and locks of torch.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        rows = list(pool.map(make_clip, jobs, chunksize=16))
    for split in SPLIT_SEEDS:
        lines = [json.dumps(row) for (_, s, _, _), made in zip(jobs, rows, strict=True) if s == split for row in made]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_clip(job: tuple[Path, str, int, GeneratedConfig]) -> list[dict[str, Any]]:
    """Write clip ``index`` of a split below ``folder`` and return its lines. A clip follows from its seed alone."""
    folder, split, index, config = job
    rng = np.random.default_rng([config.seed, SPLIT_SEEDS[split], index])
    scene = draw_scene(rng, config)
    name = f"{split}/{index:05d}.mp4"
    write_h264(folder / name, paint(scene, rng, config), config.fps)
    rows: list[dict[str, Any]] = []
    for number, question in enumerate(ask(scene, config.num_slots)):
        rows.append({"id": f"{split}-{index:05d}-{number:02d}", "video": name, **question})
    rows[0]["dense"] = dense_labels(scene, config)
    rows[0]["contents"] = window_contents(scene, config)
    return rows
