"""Decoded clips, kept in memory and, where a folder is named, on disk for the runs that follow."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stts_lightning.data.records import ClipRecord
from stts_lightning.video.clip import Clip


class ClipCache:
    """The clips used last, up to a number of bytes; a folder keeps them for other processes too.

    A file on disk answers to the video's path, size and time of change and to everything that decoding was
    told, so a video that changed is decoded anew. Files appear whole or not at all.
    """

    def __init__(self, max_bytes: int, folder: str | None, settings: dict[str, Any]) -> None:
        self.max_bytes = max_bytes
        self.folder = Path(folder) if folder else None
        self.settings = repr(sorted(settings.items()))
        self.bytes = 0
        self.clips: OrderedDict[Any, Clip] = OrderedDict()

    def read(self, record: ClipRecord, decode: Callable[[ClipRecord], Clip]) -> Clip:
        """The clip from memory, from disk, or from ``decode``."""
        key = (record.video, record.start, record.end)
        if key in self.clips:
            self.clips.move_to_end(key)
            return self.clips[key]
        path = self._path(record)
        clip = _load(path)
        if clip is None:
            clip = decode(record)
            if path is not None:
                _save(path, clip)
        self.clips[key] = clip
        self.bytes += clip.frames.nbytes
        while self.bytes > self.max_bytes:
            _, oldest = self.clips.popitem(last=False)
            self.bytes -= oldest.frames.nbytes
        return clip

    def _path(self, record: ClipRecord) -> Path | None:
        if self.folder is None:
            return None
        try:
            stat = os.stat(record.video)
        except OSError:
            return None  # the decoder says what is wrong with it
        key = f"{record.video.resolve()} {stat.st_size} {stat.st_mtime_ns} {record.start} {record.end} {self.settings}"
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / f"{name[2:20]}.npz"


def _load(path: Path | None) -> Clip | None:
    if path is None:
        return None
    try:
        with np.load(path) as saved:
            return Clip(
                frames=saved["frames"],
                times=saved["times"],
                frame_indices=saved["frame_indices"],
                duration_s=float(saved["duration_s"]),
                decoder=str(saved["decoder"]),
                note=str(saved["note"]),
            )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):  # not there, or not ours: decode
        return None


def _save(path: Path, clip: Clip) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.stem}.{os.getpid()}.npz")
    np.savez(aside, **clip._asdict())
    aside.replace(path)
