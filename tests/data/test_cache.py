from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from stts_lightning.data.cache import ClipCache
from stts_lightning.data.records import ClipRecord
from stts_lightning.video.clip import Clip

FRAME_BYTES = 2 * 4 * 4 * 3


def record(folder: Path, name: str = "a.mp4") -> ClipRecord:
    (folder / name).write_bytes(name.encode())
    return ClipRecord(folder / name, None, None, ())


class Decoder:
    """Counts how often it is asked; each clip is filled with its own number."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, record: ClipRecord) -> Clip:
        self.calls.append(record.video.name)
        frames = np.full((2, 4, 4, 3), len(self.calls), dtype=np.uint8)
        return Clip(frames, np.array([0.0, 1.0]), np.array([0, 5]), 1.0, "decord", "")


def test_clip_is_decoded_once_and_comes_back_whole(tmp_path: Path) -> None:
    decode, clip = Decoder(), record(tmp_path)
    first = ClipCache(10**6, str(tmp_path / "cache"), {"size": 4}).read(clip, decode)
    again = ClipCache(10**6, str(tmp_path / "cache"), {"size": 4}).read(clip, decode)
    assert decode.calls == ["a.mp4"]
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one, other)


def test_changed_video_or_other_settings_are_decoded_anew(tmp_path: Path) -> None:
    decode, folder = Decoder(), str(tmp_path / "cache")
    clip = record(tmp_path)
    ClipCache(10**6, folder, {"size": 4}).read(clip, decode)
    ClipCache(10**6, folder, {"size": 8}).read(clip, decode)
    os.utime(clip.video, ns=(1, 1))
    ClipCache(10**6, folder, {"size": 4}).read(clip, decode)
    assert len(decode.calls) == 3


def test_damaged_cache_file_is_decoded_anew(tmp_path: Path) -> None:
    decode, folder, clip = Decoder(), tmp_path / "cache", record(tmp_path)
    ClipCache(10**6, str(folder), {}).read(clip, decode)
    (saved,) = folder.rglob("*.npz")
    saved.write_bytes(saved.read_bytes()[:50])
    ClipCache(10**6, str(folder), {}).read(clip, decode)
    assert len(decode.calls) == 2


def test_memory_keeps_the_clips_used_last(tmp_path: Path) -> None:
    decode = Decoder()
    cache = ClipCache(2 * FRAME_BYTES, None, {})
    a, b, c = (record(tmp_path, name) for name in ("a", "b", "c"))
    for item in (a, b, a, c, a, b):
        cache.read(item, decode)
    assert decode.calls == ["a", "b", "c", "b"]
    assert cache.bytes == 2 * FRAME_BYTES
