"""Clips and pictures with their questions, decoded where they are used."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from stts_lightning.config import BackboneConfig, ImageConfig, VideoConfig
from stts_lightning.data.cache import ClipCache
from stts_lightning.data.encode import Encoder, ImageSample, Sample, TextSample
from stts_lightning.data.images import ImageError, crop_image, read_image
from stts_lightning.data.records import ClipRecord, ImageRecord, Problem, Question, TextRecord, list_problems
from stts_lightning.video.clip import Clip, VideoError
from stts_lightning.video.reader import ClipReader

MAX_TRIES = 50  # unreadable items in a row, where more are lost than may be, before the run stops from here


class _Questions(Dataset[Any]):
    """One item is one record with up to ``questions_per_clip`` of its questions.

    For a file that cannot be read the next item is taken, and the problem travels with the sample, so that the main
    process can count it; it is not tried again. Where ``may_lose`` is None it is an error.

    ``may_lose``: how many questions can be done without, in which case all neighbours may be unreadable too.
    """

    def __init__(self, records: list[Any], encoder: Encoder, questions_per_clip: int, may_lose: float | None) -> None:
        self.items = [(r, group) for r in records for group in encoder.groups(r.questions, questions_per_clip)]
        self.encoder = encoder
        self.may_lose = may_lose
        self.unreadable: dict[str, Problem] = {}  # by the record's name

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        skipped: dict[str, Problem] = {}
        for step in range(len(self.items)):
            record, questions = self.items[(index + step) % len(self.items)]
            if record.name not in self.unreadable:
                try:
                    return self._sample(record, questions, list(skipped.values()))
                except (VideoError, ImageError) as error:
                    if self.may_lose is None:
                        raise
                    self.unreadable[record.name] = _problem(record, error)
            skipped[record.name] = self.unreadable[record.name]
            if step + 1 >= MAX_TRIES and sum(p.questions for p in self.unreadable.values()) > self.may_lose:
                break
        listed = list_problems(list(self.unreadable.values()))
        raise ValueError(f"{step + 1} samples in a row cannot be read; questions lost so far: {listed}")

    def _sample(self, record: Any, questions: tuple[Question, ...], skipped: list[Problem]) -> Any:
        raise NotImplementedError


def _problem(record: Any, error: VideoError | ImageError) -> Problem:
    """All its questions are lost: no group of them can be asked."""
    what = str(error).removeprefix(f"{record.name}: ")
    return Problem(record.name, what, error.kind, len(record.questions))


class VideoQuestions(_Questions):
    """Clips, kept decoded in a cache."""

    def __init__(
        self,
        clips: list[ClipRecord],
        encoder: Encoder,
        video: VideoConfig,
        backbone: BackboneConfig,
        questions_per_clip: int,
        cache_mib: int,
        cache_dir: str | None,
        may_lose: float | None,
    ) -> None:
        super().__init__(clips, encoder, questions_per_clip, may_lose)
        self.reader = ClipReader(timeout_s=video.decode_timeout_s)
        self.sampling = {
            "size": backbone.image_size,
            "max_frames": video.max_frames,
            "max_fps": video.fps,
            "decoder": video.decoder,
            "resize": video.resize,
        }
        self.cache = ClipCache(cache_mib * 2**20, cache_dir, self.sampling)

    def _sample(self, record: ClipRecord, questions: tuple[Question, ...], skipped: list[Problem]) -> Sample:
        clip = self.cache.read(record, self._decode)
        tokens, asked = self.encoder.encode(clip.times, questions, record.dense)
        side = self.encoder.window_rows
        return Sample(
            frames=torch.from_numpy(clip.frames),
            grid=(len(clip.frames), side, side),
            tokens=tokens,
            asked=asked,
            source=str(record.video),
            times=clip.times,
            decoder=clip.decoder,
            skipped=skipped,
            contents=self._contents(record, len(clip.frames)),
        )

    @staticmethod
    def _contents(record: ClipRecord, num_frames: int) -> torch.Tensor | None:
        """Known for the frames that the set was painted for; sampled at another rate, a clip has others."""
        known = record.contents
        return torch.tensor(known) if known is not None and len(known) == num_frames else None

    def _decode(self, record: ClipRecord) -> Clip:
        return self.reader.read(str(record.video), start=record.start, end=record.end, **self.sampling)


class ImageQuestions(_Questions):
    """Pictures, read anew each time: a PNG or JPEG costs a hundredth of a clip."""

    def __init__(
        self,
        records: list[ImageRecord],
        encoder: Encoder,
        image: ImageConfig,
        backbone: BackboneConfig,
        questions_per_clip: int,
        may_lose: float | None,
    ) -> None:
        super().__init__(records, encoder, questions_per_clip, may_lose)
        self.image = image
        self.backbone = backbone

    def _sample(self, record: ImageRecord, questions: tuple[Question, ...], skipped: list[Problem]) -> ImageSample:
        pictures = [crop_image(read_image(path), self.backbone, self.image) for path in record.images]
        grids = [picture.grid for picture in pictures]
        tokens, asked = self.encoder.encode_images(grids, self.image, questions)
        return ImageSample(
            crops=torch.from_numpy(np.concatenate([picture.pixels for picture in pictures])),
            tables=[picture.table_MP for picture in pictures],
            grids=grids,
            num_crops=[len(picture.pixels) for picture in pictures],
            tokens=tokens,
            asked=asked,
            source=record.name,
            skipped=skipped,
        )


class TextQuestions(_Questions):
    """Nothing to read, so nothing that could not be read."""

    def _sample(self, record: TextRecord, questions: tuple[Question, ...], skipped: list[Problem]) -> TextSample:
        tokens, asked = self.encoder.encode_text(questions)
        return TextSample(tokens, asked, record.name, skipped)
