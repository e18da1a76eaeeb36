"""What is held out for evaluation where a file does not say."""

from __future__ import annotations

import hashlib
from pathlib import Path

from stts_lightning.data.records import ClipRecord, ImageRecord, Records, TextRecord


def split_records(records: Records, fraction: float) -> tuple[Records, Records]:
    """Training and evaluation; what cannot be used stays with the first."""
    clips, held_clips = hold_out(records, fraction)
    images, held_images = hold_out_images(records, fraction)
    texts, held_texts = hold_out_texts(records, fraction)
    return Records(clips, records.problems, images, texts), Records(held_clips, [], held_images, held_texts)


def hold_out(records: Records, fraction: float) -> tuple[list[ClipRecord], list[ClipRecord]]:
    """Split by video, so that no video is on both sides; the same split at every call.

    With a single video both sides hold it: there is nothing to hold out.
    """
    videos = sorted({clip.video for clip in records.clips}, key=_stable_order)
    if len(videos) == 1:
        return records.clips, records.clips
    held = set(videos[: _count(len(videos), fraction)])
    train = [clip for clip in records.clips if clip.video not in held]
    return train, [clip for clip in records.clips if clip.video in held]


def hold_out_images(records: Records, fraction: float) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """As `hold_out`: records that share a picture, directly or through others, are on the same side."""
    groups = _sharing(records.images)
    if len(groups) == 1:
        return records.images, records.images
    groups.sort(key=lambda group: _stable_order(min(path for record in group for path in record.images)))
    held = {record for group in groups[: _count(len(groups), fraction)] for record in group}
    train = [record for record in records.images if record not in held]
    return train, [record for record in records.images if record in held]


def hold_out_texts(records: Records, fraction: float) -> tuple[list[TextRecord], list[TextRecord]]:
    """As `hold_out`, by the question's id."""
    if len(records.texts) <= 1:
        return records.texts, records.texts
    order = sorted(records.texts, key=lambda record: _stable_order(Path(record.name)))
    held = set(order[: _count(len(order), fraction)])
    return [r for r in records.texts if r not in held], [r for r in records.texts if r in held]


def _sharing(records: list[ImageRecord]) -> list[list[ImageRecord]]:
    group_of: dict[Path, list[ImageRecord]] = {}
    for record in records:
        joined = [record]
        for group in {id(group_of[path]): group_of[path] for path in record.images if path in group_of}.values():
            joined += group
        for path in {path for member in joined for path in member.images}:
            group_of[path] = joined
    return list({id(group): group for group in group_of.values()}.values())


def _count(things: int, fraction: float) -> int:
    return max(1, round(things * fraction))


def _stable_order(path: Path) -> str:
    return hashlib.sha256(path.name.encode()).hexdigest()
