"""Stands in for `python -m stts_lightning train`: the files of a run, made up, in no time.

    python fake_train.py --run-dir DIR

The seed says how it goes: 13 fails; 14 stops half-way for ever, unless it finds its own checkpoint.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # runs from a checkout that is not installed

from stts_lightning.config import Config, read_config  # noqa: E402
from stts_lightning.runs import Result, RunDir, write_progress, write_result  # noqa: E402

COST = {
    "none": 0.0,
    "stts": 0.02,
    "stts_no_aux": 0.03,
    "heuristic": 0.05,
    "tome": 0.06,
    "random": 0.16,
    "text_only": 0.15,
}
NUM_FRAMES, SIDE, WINDOWS, CLIPS = 8, 48, 16, 2


def main() -> None:
    folder = RunDir(Path(sys.argv[sys.argv.index("--run-dir") + 1]))
    config = read_config(folder.config)
    with (folder.path / "starts").open("a") as starts:
        starts.write(json.dumps({k: v for k, v in os.environ.items() if k.endswith(("_THREADS", "_DEVICES"))}) + "\n")
    print("starting", folder.path.name)
    write_progress(folder.path, "training", 5, 10, 2.0)
    if config.seed == 13:
        raise RuntimeError("no such luck")
    if config.seed == 14 and not folder.checkpoints.exists():
        folder.checkpoints.mkdir()
        time.sleep(600)
    time.sleep(0.1)
    if config.variant == "trained":
        folder.model.mkdir(exist_ok=True)
    else:
        assert config.init_from is not None and Path(config.init_from).is_dir(), "evaluated before it was trained"
    write_predictions(folder, config)
    if config.prune.percent == 50:
        write_decisions(folder, config)
    write_result(folder.path, result(config))


def result(config: Config) -> Result:
    prune = config.prune
    accuracy = 0.86 - COST.get(prune.method, 0.1) * prune.percent / 30 - 0.005 * config.seed
    return Result(
        method=prune.method,
        prune_percent=prune.percent,
        seed=config.seed,
        accuracy=accuracy,
        accuracy_stderr=0.02,
        kept_tokens=NUM_FRAMES * WINDOWS * (1 - prune.percent / 100),
        samples_per_second=12.5,
        tokens_per_second=3000.0,
        peak_memory_gib=0.9,
        train_seconds=60.0,
        eval_seconds=10.0,
        num_questions=40,
        by_category={"where": accuracy, "what shape?": accuracy},
        checkpoint=None,
        git_commit="0123abc",
        layer=prune.layer,
        max_frames=config.video.max_frames,
        variant=config.variant,
    )


def write_predictions(folder: RunDir, config: Config) -> None:
    lines = [
        {"id": f"q{i}", "video": f"{i // 4}.mp4", "category": "where", "question": "where?", "options": ["a", "b", "c"],
         "answer": 0, "predicted": i % 3, "correct": i % 3 == 0, "letter_scores": [0.0, 0.0, 0.0]}
        for i in range(40)
    ]  # fmt: skip
    folder.predictions.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_decisions(folder: RunDir, config: Config) -> None:
    """Two clips of grey noise that a red square crosses; the second one is shorter."""
    rng = np.random.default_rng(0)
    frames = rng.normal(115, 12, (CLIPS, NUM_FRAMES, SIDE, SIDE, 3))
    for frame in range(NUM_FRAMES):
        frames[:, frame, 12:24, 4 * frame : 4 * frame + 12] = (220, 60, 40)
    scores = np.random.default_rng(len(config.prune.method)).random((CLIPS, NUM_FRAMES, WINDOWS))
    scores[:, 0] = 2.0
    keep = scores >= np.quantile(scores, config.prune.percent / 100)
    np.savez(
        folder.decisions,
        frames=frames.clip(0, 255).astype(np.uint8),
        scores=scores,
        keep=keep,
        times=np.tile(0.5 * np.arange(NUM_FRAMES), (CLIPS, 1)),
        videos=np.array(["eval/000.mp4", "eval/001.mp4"]),
        num_frames=np.array([NUM_FRAMES, 5]),
    )


if __name__ == "__main__":
    main()
