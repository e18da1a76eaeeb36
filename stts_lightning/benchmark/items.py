"""One question of a benchmark, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class Subtitle(NamedTuple):
    """Seconds from the start of the video."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class ImageRef:
    """A picture: a file, or a cell of a table that is read when somebody asks."""

    path: Path | None = None
    table: Any = None  # datasets.Dataset
    row: int = 0
    column: str = ""
    number: int = 0  # in a column that holds several

    def read(self) -> bytes:
        """The encoded picture (PNG, JPEG or the like)."""
        if self.path is not None:
            return self.path.read_bytes()
        cell = self.table[self.row][self.column]
        cell = cell[self.number] if isinstance(cell, list) else cell
        return bytes(cell["bytes"]) if cell.get("bytes") is not None else Path(cell["path"]).read_bytes()


@dataclass(frozen=True)
class Item:
    """``answer`` indexes ``options``; where there are none, ``answers`` holds the texts that count as right.

    ``media`` names the video or picture, by which standard errors are clustered; ``start`` and ``end`` are
    seconds; ``kind`` is the entry of the benchmark's ``ask``.
    """

    id: str
    kind: str
    prompt: str
    question: str
    options: tuple[str, ...]
    answer: int | None
    answers: tuple[str, ...]
    category: str
    media: str
    video: Path | None = None
    start: float | None = None
    end: float | None = None
    decoder: str = "auto"
    images: tuple[ImageRef, ...] = ()
    subtitles: tuple[Subtitle, ...] = ()
