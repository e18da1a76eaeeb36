from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stts_lightning.config import GeneratedConfig
from stts_lightning.data.generate import generated_set
from stts_lightning.data.records import read_records
from stts_lightning.data.scene import draw_scene, paint
from stts_lightning.video.decode import decode_clip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> GeneratedConfig:
    return GeneratedConfig(root=str(tmp_path_factory.mktemp("set")), train_videos=5, eval_videos=3)


def test_clips_are_real_files_that_show_what_was_painted(config: GeneratedConfig) -> None:
    records = read_records(generated_set(config).train)
    assert len(records.clips) == 5 and not records.problems
    rng = np.random.default_rng([config.seed, 0, 2])
    scene = draw_scene(rng, config)
    painted = paint(scene, rng, config)
    clip = decode_clip(str(records.clips[2].video), size=config.frame_size, max_frames=64, max_fps=2.0)
    assert clip.decoder == "decord"
    assert len(clip.frames) == config.num_slots
    wanted = painted[clip.frame_indices].astype(float)
    # Lossy, with halved chroma: near on average, and nearer to its own frame than to any other slot's.
    error = np.abs(clip.frames.astype(float) - wanted).mean((1, 2, 3))
    assert error.max() < 12
    event = scene.events[0].slot
    assert error[event] < np.abs(clip.frames[event].astype(float) - wanted[0]).mean()


def test_second_call_makes_nothing(config: GeneratedConfig) -> None:
    said: list[str] = []
    first = generated_set(config, said.append)
    stamp = first.train.stat().st_mtime_ns
    assert generated_set(config, said.append) == first
    assert said in ([], said[:1]) and first.train.stat().st_mtime_ns == stamp
    assert not list(Path(config.root).glob("*.partial"))


def test_splits_and_seeds_differ(config: GeneratedConfig) -> None:
    made = generated_set(config)
    train, held = read_records(made.train).clips, read_records(made.eval).clips
    assert train[0].video.read_bytes() != held[0].video.read_bytes()
    other = generated_set(GeneratedConfig(root=config.root, train_videos=1, eval_videos=1, seed=1))
    assert other.train.parent != made.train.parent
