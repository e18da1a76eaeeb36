"""From a benchmark's files to its questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from stts_lightning.benchmark.declare import Benchmark
from stts_lightning.benchmark.files import Row, find_files, folder_of, missing, read_rows
from stts_lightning.benchmark.items import ImageRef, Item, Subtitle
from stts_lightning.benchmark.options import read_answer, read_choices
from stts_lightning.benchmark.prompts import FORMATS
from stts_lightning.benchmark.subtitles import long_video_subtitles, video_mme_subtitles

Pictures = Callable[[str], list[ImageRef]]


class Loaded(NamedTuple):
    """``dropped`` counts, by reason, the rows that the benchmark itself leaves out."""

    items: list[Item]
    dropped: dict[str, int]


def load_items(benchmark: Benchmark, root: str | Path, *, limit: int | None = None, need_media: bool = True) -> Loaded:
    """Read the questions of a benchmark.

    Args:
        root: the folder of all benchmarks; this one's files lie in ``<root>/<source.folder>`` as their authors
            publish them.
        limit: the first so many questions alone.
        need_media: whether every video and picture must be there; controls without vision do without.

    Raises:
        ValueError: files are missing (names the benchmark, where to get it and where to put it), or a row does not
            hold what the declaration says (names the file and the row).
    """
    root = Path(root)
    items: list[Item] = []
    dropped: Counter[str] = Counter()
    for path in find_files(benchmark, root):
        for row, pictures in read_rows(path, benchmark.media.images):
            for question in _explode(row, benchmark.columns.nested):
                if limit is not None and len(items) >= limit:
                    break
                try:
                    item = _item(benchmark, folder_of(benchmark, root), question, pictures, need_media)
                except (KeyError, ValueError, TypeError, IndexError, SyntaxError) as error:
                    what = f"no column {error}" if isinstance(error, KeyError) else str(error)
                    raise ValueError(f"benchmark {benchmark.name}: {path}, row {row['_row']}: {what}") from None
                if isinstance(item, str):
                    dropped[item] += 1
                else:
                    items.append(item)
    if need_media:
        _check_media(benchmark, root, items)
    if not items:
        raise missing(benchmark, root, "its files hold no question")
    return Loaded(items, dict(dropped))


def _explode(row: Row, nested: str) -> Iterator[Row]:
    if not nested:
        yield row
        return
    for question in row[nested]:
        yield {**row, **question}


def _item(benchmark: Benchmark, folder: Path, row: Row, pictures: Pictures, need_media: bool) -> Item | str:
    """One question, or why it is dropped."""
    columns = benchmark.columns
    if str(row.get(columns.answer)) in benchmark.drop_answers:
        return f"answer {row[columns.answer]}"
    kind = benchmark.kind.format(**row)
    if kind not in benchmark.ask:
        raise ValueError(f"kind of question {kind!r} is not one of {', '.join(benchmark.ask)}.")
    ask = benchmark.ask[kind]
    choices = read_choices(ask.options, str(row[columns.question]), [row[c] for c in columns.options])
    if ask.answer == "line" and str(row[columns.answer]) not in choices.stored.split("\n")[1:]:
        return "answer is none of the options"  # TempCompass has such rows, and Molmo2's evaluation skips them
    prompt = FORMATS[ask.prompt](choices)
    for word in benchmark.drop_prompts_with:
        if word in prompt:
            return f"prompt with {word!r}"
    right = read_answer(ask.answer, row[columns.answer], choices)
    ident = columns.id.format(**row)
    video = _video(benchmark, folder, row) if benchmark.has_video else None
    name = str(video.relative_to(folder)) if video is not None else ident
    return Item(
        id=ident,
        kind=kind,
        prompt=prompt,
        question=choices.question,
        options=choices.texts,
        answer=right.option,
        answers=right.texts,
        category=columns.category.format(**row),
        media=name,
        video=video,
        start=_seconds(row, columns.start),
        end=_seconds(row, columns.end),
        decoder="pyav" if name.endswith(tuple(benchmark.media.pyav)) else benchmark.media.decoder,
        images=() if benchmark.has_video else _images(benchmark, folder, row, pictures),
        subtitles=_subtitles(benchmark, folder, row) if need_media else (),
    )


def _video(benchmark: Benchmark, folder: Path, row: Row) -> Path:
    """The first of the declared paths that exists, else the first."""
    media = benchmark.media
    parts = dict(row)
    if media.folders:
        parts["folder"] = media.folders[str(row["_file"])]
    parts |= {f"{key}_stem": Path(value).stem for key, value in row.items() if isinstance(value, str)}
    candidates = [folder / template.format(**parts) for template in media.paths]
    return next((path for path in candidates if path.exists()), candidates[0])


def _images(benchmark: Benchmark, folder: Path, row: Row, pictures: Pictures) -> tuple[ImageRef, ...]:
    found: list[ImageRef] = []
    for column in benchmark.media.images:
        cells = pictures(column)
        if not cells and row.get(column):
            paths = row[column] if isinstance(row[column], list) else [row[column]]
            cells = [ImageRef(path=folder / str(path)) for path in paths]
        found += cells
    for template in benchmark.media.paths:
        found.append(ImageRef(path=folder / template.format(**row)))
    return tuple(found)


def _seconds(row: Row, column: str) -> float | None:
    value: Any = row.get(column) if column else None
    return None if value is None or value == "" else float(value)


def _subtitles(benchmark: Benchmark, folder: Path, row: Row) -> tuple[Subtitle, ...]:
    layout = benchmark.subtitles.layout
    if layout == "none":
        return ()
    path = folder / benchmark.subtitles.path.format(**row)
    if not path.is_file():
        raise ValueError(f"no subtitles at {path}.")
    if layout == "video_mme":  # a video without an entry is asked without subtitles, as Molmo2's evaluation does
        return _video_mme(path).get(str(row["videoID"]), ())
    return long_video_subtitles(path, float(row["starting_timestamp_for_subtitles"]), float(row["duration"]))


@lru_cache(maxsize=2)
def _video_mme(path: Path) -> dict[str, tuple[Subtitle, ...]]:
    return video_mme_subtitles(path)


def _check_media(benchmark: Benchmark, root: Path, items: list[Item]) -> None:
    wanted = {item.video for item in items if item.video is not None}
    wanted |= {image.path for item in items for image in item.images if image.path is not None}
    absent = sorted(str(path) for path in wanted if not path.exists())
    if absent:
        what = "videos" if benchmark.has_video else "pictures"
        raise missing(benchmark, root, f"{len(absent)} of {len(wanted)} {what} are not there, as {absent[0]}")
    without = sum(1 for item in items if item.video is None and not item.images)
    if without:
        columns = ", ".join(benchmark.media.images) or "media.images"
        raise missing(benchmark, root, f"{without} questions have no picture in the columns {columns}")
