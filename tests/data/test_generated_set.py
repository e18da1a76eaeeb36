from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from stts_lightning.config import GeneratedConfig
from stts_lightning.data.generate import generated_set
from stts_lightning.data.paint import paint
from stts_lightning.data.records import read_records
from stts_lightning.data.scene import draw_scene
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
    pictures = [clip.video.read_bytes() for split in made for clip in read_records(split).clips]
    assert len(pictures) == 5 + 3 + 3 and len(set(pictures)) == len(pictures)
    other = generated_set(GeneratedConfig(root=config.root, train_videos=1, eval_videos=1, seed=1))
    assert other.train.parent != made.train.parent


def test_a_knob_renames_the_set_only_where_it_is_turned(tmp_path: Path) -> None:
    """Sets of before the later knobs are found again: their name is a digest of the values that there were."""
    first = {
        "root": "", "train_videos": 1, "eval_videos": 1, "frame_size": 96, "fps": 8, "num_slots": 8, "num_events": 3,
        "num_static": 2, "num_flicker": 3, "flicker_amplitude": 0.25, "texture": 0.06, "noise": 0.03, "seed": 0,
    }  # fmt: skip
    name = hashlib.sha256(json.dumps(first | {"format": 2}, sort_keys=True).encode()).hexdigest()[:8]
    made = generated_set(GeneratedConfig(root=str(tmp_path), train_videos=1, eval_videos=1))
    assert made.train.parent.name == name
    turned = generated_set(GeneratedConfig(root=str(tmp_path), train_videos=1, eval_videos=1, num_decoys=2))
    assert turned.train.parent.name != name
