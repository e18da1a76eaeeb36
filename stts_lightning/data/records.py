"""Questions about videos, from a JSON Lines file beside them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stts_lightning.data.prompts import LETTERS


@dataclass(frozen=True)
class Question:
    """One line of the file. ``answer`` indexes ``options``."""

    id: str
    text: str
    options: tuple[str, ...]
    answer: int
    category: str


@dataclass(frozen=True)
class ClipRecord:
    """A clip with all its questions: they are asked in one sequence, so the clip is decoded once."""

    video: Path
    start: float | None
    end: float | None
    questions: tuple[Question, ...]
    dense: tuple[tuple[int, ...], ...] | None = None  # classes by frame and window; generated clips only


@dataclass(frozen=True)
class Problem:
    """Something that cannot be used: where it stands, what is wrong and how many questions it costs."""

    where: str
    what: str
    questions: int = 1

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass
class Records:
    clips: list[ClipRecord]
    problems: list[Problem] = field(default_factory=list)

    @property
    def num_questions(self) -> int:
        """Usable and unusable ones together."""
        usable = sum(len(clip.questions) for clip in self.clips)
        return usable + sum(problem.questions for problem in self.problems)


def read_records(path: str | Path) -> Records:
    """Read a JSON Lines file: `video`, `question`, `options`, `answer`, optional `id`, `category`, `start`,
    `end` (seconds). Videos are found relative to the file.

    Bad lines, missing and empty videos are collected as problems, each with its line number; nothing is
    raised for them here, because training has a budget for them and evaluation has none.

    Raises:
        ValueError: there is no such file, or not one usable line in it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file. DATA= names a JSON Lines file with one question a line.")
    problems: list[Problem] = []
    grouped: dict[tuple[Path, float | None, float | None], list[Question]] = {}
    dense: dict[Path, Any] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line.decode("utf-8"))
            question = _question(row, default_id=f"{path.stem}-{number}")
            key = (path.parent / row["video"], _seconds(row, "start"), _seconds(row, "end"))
            _check_clip(*key)
        except (ValueError, UnicodeDecodeError) as error:
            problems.append(Problem(where, str(error)))
            continue
        grouped.setdefault(key, []).append(question)
        if "dense" in row:
            dense[key[0]] = tuple(map(tuple, row["dense"]))
    clips = [
        ClipRecord(video, start, end, tuple(questions), dense.get(video))
        for (video, start, end), questions in grouped.items()
    ]
    if not clips:
        listed = "\n  ".join(map(str, problems[:20])) or "the file is empty"
        raise ValueError(f"{path}: no usable question.\n  {listed}")
    return Records(clips, problems)


def _question(row: Any, default_id: str) -> Question:
    if not isinstance(row, dict):
        raise ValueError(f"a line must be a JSON object, not {type(row).__name__}.")
    for key, kind in (("video", str), ("question", str), ("options", list), ("answer", int)):
        if key not in row:
            raise ValueError(f"the key {key!r} is missing; a line needs video, question, options and answer.")
        if not isinstance(row[key], kind) or isinstance(row[key], bool):
            raise ValueError(f"{key}={row[key]!r} must be of type {kind.__name__}.")
    options, answer = row["options"], row["answer"]
    if not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"{len(options)} options; a question needs 2 to {len(LETTERS)}.")
    if not 0 <= answer < len(options):
        raise ValueError(f"answer={answer} is out of range: there are {len(options)} options, counted from 0.")
    return Question(
        id=str(row.get("id", default_id)),
        text=row["question"],
        options=tuple(map(str, options)),
        answer=answer,
        category=str(row.get("category", "")),
    )


def _seconds(row: dict[str, Any], key: str) -> float | None:
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError(f"{key}={value!r} must be a number of seconds, 0 or more.")
    return float(value)


def _check_clip(video: Path, start: float | None, end: float | None) -> None:
    if not video.exists():
        raise ValueError(f"no video at {video}. Paths are relative to the JSON Lines file.")
    if not video.is_file():
        raise ValueError(f"{video} is not a file.")
    if video.stat().st_size == 0:
        raise ValueError(f"{video} is empty (0 bytes).")
    if start is not None and end is not None and start >= end:
        raise ValueError(f"start={start} is not before end={end}.")


def hold_out(records: Records, fraction: float) -> tuple[list[ClipRecord], list[ClipRecord]]:
    """Split by video, so that no video is on both sides; the same split at every call.

    With a single video both sides hold it: there is nothing to hold out.
    """
    videos = sorted({clip.video for clip in records.clips}, key=_stable_order)
    if len(videos) == 1:
        return records.clips, records.clips
    held = set(videos[: max(1, round(len(videos) * fraction))])
    train = [clip for clip in records.clips if clip.video not in held]
    return train, [clip for clip in records.clips if clip.video in held]


def _stable_order(video: Path) -> str:
    return hashlib.sha256(video.name.encode()).hexdigest()
