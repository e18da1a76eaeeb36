"""Clips with their questions, decoded where they are used."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch.utils.data import Dataset

from stts_lightning.config import BackboneConfig, VideoConfig
from stts_lightning.data.encode import Encoder, Sample
from stts_lightning.data.records import ClipRecord, Problem, Question
from stts_lightning.video.clip import Clip, VideoError
from stts_lightning.video.reader import ClipReader

MAX_TRIES = 50  # unreadable clips in a row before the data set is taken for broken


class VideoQuestions(Dataset[Sample]):
    """One item is one clip with up to ``questions_per_clip`` of its questions.

    A clip that cannot be read is an error where ``strict``, else the next one is taken and the problem
    travels with the sample, so that the main process can count it.
    """

    def __init__(
        self,
        clips: list[ClipRecord],
        encoder: Encoder,
        video: VideoConfig,
        backbone: BackboneConfig,
        questions_per_clip: int,
        cache_mib: int,
        strict: bool,
    ) -> None:
        self.items = split_questions(clips, questions_per_clip)
        self.encoder = encoder
        self.video = video
        self.backbone = backbone
        self.strict = strict
        self.reader = ClipReader(timeout_s=video.decode_timeout_s)
        self.cache = ClipCache(cache_mib * 2**20)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        skipped: list[Problem] = []
        for step in range(min(MAX_TRIES, len(self.items))):
            record, questions = self.items[(index + step) % len(self.items)]
            try:
                return self._sample(record, questions, skipped)
            except VideoError as error:
                if self.strict:
                    raise
                skipped.append(Problem(str(record.video), f"[{error.kind}] {error}", len(questions)))
        raise ValueError(f"{len(skipped)} clips in a row cannot be read; the first: {skipped[0]}")

    def _sample(self, record: ClipRecord, questions: tuple[Question, ...], skipped: list[Problem]) -> Sample:
        clip = self._read(record)
        tokens, asked = self.encoder.encode(clip.times, questions, record.dense)
        side = self.encoder.window_rows
        return Sample(
            frames=torch.from_numpy(clip.frames),
            grid=(len(clip.frames), side, side),
            tokens=tokens,
            asked=asked,
            video=str(record.video),
            times=clip.times,
            decoder=clip.decoder,
            skipped=skipped,
        )

    def _read(self, record: ClipRecord) -> Clip:
        key = (record.video, record.start, record.end)
        clip = self.cache.get(key)
        if clip is None:
            clip = self.reader.read(
                str(record.video),
                size=self.backbone.image_size,
                max_frames=self.video.max_frames,
                max_fps=self.video.fps,
                start=record.start,
                end=record.end,
                decoder=self.video.decoder,
            )
            self.cache.put(key, clip)
        return clip


class ClipCache:
    """The clips used last, up to a number of bytes: a small set is decoded once, a large one streams."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.clips: OrderedDict[Any, Clip] = OrderedDict()

    def get(self, key: Any) -> Clip | None:
        clip = self.clips.get(key)
        if clip is not None:
            self.clips.move_to_end(key)
        return clip

    def put(self, key: Any, clip: Clip) -> None:
        self.clips[key] = clip
        self.bytes += clip.frames.nbytes
        while self.bytes > self.max_bytes:
            _, oldest = self.clips.popitem(last=False)
            self.bytes -= oldest.frames.nbytes


def split_questions(clips: list[ClipRecord], questions_per_clip: int) -> list[tuple[ClipRecord, tuple[Question, ...]]]:
    """Each clip with its questions, in groups of at most ``questions_per_clip``."""
    items = []
    for clip in clips:
        for start in range(0, len(clip.questions), questions_per_clip):
            items.append((clip, clip.questions[start : start + questions_per_clip]))
    return items
