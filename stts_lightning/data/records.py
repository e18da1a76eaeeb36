"""Questions about videos, pictures or nothing but a text, from a JSON Lines file beside them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stts_lightning.data.prompts import LETTERS
from stts_lightning.video.clip import VideoError
from stts_lightning.video.files import check_there


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
    contents: tuple[tuple[int, ...], ...] | None = None  # what each window shows, as in `scene.CONTENTS`; likewise

    @property
    def name(self) -> str:
        """The video, and the seconds if it is not the whole of it."""
        if self.start is None and self.end is None:
            return str(self.video)
        end = "its end" if self.end is None else f"{self.end:g} s"
        return f"{self.video} from {self.start or 0:g} s to {end}"


@dataclass(frozen=True)
class ImageRecord:
    """One picture, or several in their order, with all questions about them."""

    images: tuple[Path, ...]
    questions: tuple[Question, ...]

    @property
    def name(self) -> str:
        return " + ".join(map(str, self.images))


@dataclass(frozen=True)
class TextRecord:
    """A question with nothing to look at."""

    questions: tuple[Question, ...]

    @property
    def name(self) -> str:
        return f"text {self.questions[0].id}"


@dataclass(frozen=True)
class Problem:
    """Something that cannot be used: where it stands, what is wrong, of what kind, and the questions that it costs.

    ``kind`` is one of `video.clip.REMEDIES`, or BAD_LINE.
    """

    where: str
    what: str
    kind: str
    questions: int = 1

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


BAD_LINE = "bad_line"  # the kind of a line that makes no sense


def count_by_kind(problems: Iterable[Problem]) -> dict[str, int]:
    """Questions lost to each kind of problem, the worst first."""
    lost: Counter[str] = Counter()
    for problem in problems:
        lost[problem.kind] += problem.questions
    return dict(lost.most_common())


def list_problems(problems: list[Problem], at_most: int = 50) -> str:
    """How many questions each kind costs, and a line for each of the first problems."""
    counts = ", ".join(f"{kind} {count}" for kind, count in count_by_kind(problems).items())
    lines = [counts, *map(str, problems[:at_most])]
    if len(problems) > at_most:
        lines.append(f"and {len(problems) - at_most} more")
    return "\n  ".join(lines)


@dataclass
class Records:
    clips: list[ClipRecord]
    problems: list[Problem] = field(default_factory=list)
    images: list[ImageRecord] = field(default_factory=list)
    texts: list[TextRecord] = field(default_factory=list)

    @property
    def num_questions(self) -> int:
        """Usable and unusable ones together."""
        usable = sum(len(record.questions) for record in [*self.clips, *self.images, *self.texts])
        return usable + sum(problem.questions for problem in self.problems)


def read_records(path: str | Path) -> Records:
    """Read a JSON Lines file: `video`, `question`, `options`, `answer`, optional `id`, `category`, `start`,
    `end` (seconds); or instead of `video`, `images`, a list of picture files; or ``"video": null``, for a question
    with nothing to look at. Files are found relative to this one.

    Bad lines, missing and empty files are collected as problems, each with its line number; nothing is
    raised for them here, because training has a budget for them and evaluation has none.

    Raises:
        ValueError: there is no such file, or not one usable line in it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file. DATA= names a JSON Lines file with one question a line.")
    problems: list[Problem] = []
    grouped: dict[tuple[Path, float | None, float | None], list[Question]] = {}
    pictures: dict[tuple[Path, ...], list[Question]] = {}
    texts: list[TextRecord] = []
    dense: dict[Path, Any] = {}
    contents: dict[Path, Any] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line.decode("utf-8"))
            question = _question(row, default_id=f"{path.stem}-{number}")
            if "images" in row:
                files = _image_files(row, path.parent)
            elif row["video"] is not None:
                key = (path.parent / row["video"], _seconds(row, "start"), _seconds(row, "end"))
                if key not in grouped:  # else it has passed already, with an earlier question on the same clip
                    _check_clip(*key)
        except (ValueError, UnicodeDecodeError) as error:
            problems.append(Problem(where, str(error), error.kind if isinstance(error, VideoError) else BAD_LINE))
            continue
        if "images" in row:
            pictures.setdefault(files, []).append(question)
            continue
        if row["video"] is None:
            texts.append(TextRecord((question,)))
            continue
        grouped.setdefault(key, []).append(question)
        if "dense" in row:
            dense[key[0]] = tuple(map(tuple, row["dense"]))
        if "contents" in row:
            contents[key[0]] = tuple(map(tuple, row["contents"]))
    clips = [
        ClipRecord(video, start, end, tuple(questions), dense.get(video), contents.get(video))
        for (video, start, end), questions in grouped.items()
    ]
    images = [ImageRecord(files, tuple(questions)) for files, questions in pictures.items()]
    if not clips and not images and not texts:
        listed = list_problems(problems) if problems else "the file is empty"
        raise ValueError(f"{path}: no usable question.\n  {listed}")
    return Records(clips, problems, images, texts)


def _question(row: Any, default_id: str) -> Question:
    if not isinstance(row, dict):
        raise ValueError(f"a line must be a JSON object, not {type(row).__name__}.")
    if "images" in row and "video" in row:
        raise ValueError("a line has either video or images, not both.")
    media: tuple[str, Any] = ("images", list) if "images" in row else ("video", str | None)
    for key, kind in (media, ("question", str), ("options", list), ("answer", int)):
        if key not in row:
            raise ValueError(f"the key {key!r} is missing; a line needs video or images, question, options and answer.")
        if not isinstance(row[key], kind) or isinstance(row[key], bool):
            raise ValueError(f"{key}={row[key]!r} must be of type {getattr(kind, '__name__', kind)}.")
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
    check_there(str(video))
    if start is not None and end is not None and start >= end:
        raise ValueError(f"start={start} is not before end={end}.")


def _image_files(row: dict[str, Any], folder: Path) -> tuple[Path, ...]:
    for key in ("start", "end"):
        if row.get(key) is not None:
            raise ValueError(f"{key}={row[key]!r}: images have no times.")
    if not row["images"] or not all(isinstance(name, str) for name in row["images"]):
        raise ValueError(f"images={row['images']!r} must be a list of one or more file names.")
    files = tuple(folder / name for name in row["images"])
    for file in files:
        check_there(str(file))
    return files
