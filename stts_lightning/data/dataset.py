"""Clips with their questions, decoded where they are used."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset

from stts_lightning.config import BackboneConfig, VideoConfig
from stts_lightning.data.cache import ClipCache
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
        cache_dir: str | None,
        strict: bool,
    ) -> None:
        self.items = [(clip, group) for clip in clips for group in encoder.groups(clip.questions, questions_per_clip)]
        self.encoder = encoder
        self.strict = strict
        self.reader = ClipReader(timeout_s=video.decode_timeout_s)
        self.sampling = {
            "size": backbone.image_size,
            "max_frames": video.max_frames,
            "max_fps": video.fps,
            "decoder": video.decoder,
            "resize": video.resize,
        }
        self.cache = ClipCache(cache_mib * 2**20, cache_dir, self.sampling)

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
        clip = self.cache.read(record, self._decode)
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

    def _decode(self, record: ClipRecord) -> Clip:
        return self.reader.read(str(record.video), start=record.start, end=record.end, **self.sampling)
