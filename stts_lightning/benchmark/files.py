"""A benchmark's files: from a local folder in the source's own layout, else from the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stts_lightning.benchmark.declare import Benchmark
from stts_lightning.benchmark.items import ImageRef

Row = dict[str, Any]


def find_files(benchmark: Benchmark, root: Path) -> list[Path]:
    """The files of questions below ``<root>/<folder>``; what is not there is fetched from the hub.

    Raises:
        ValueError: they are not there either; says which benchmark, where to get it and where to put it.
    """
    found = _match(benchmark, folder_of(benchmark, root))
    if not found and benchmark.source.hub is not None:
        found = _match(benchmark, _from_hub(benchmark, root))
    if not found:
        raise missing(benchmark, root, "its questions are not there")
    return found


def folder_of(benchmark: Benchmark, root: Path) -> Path:
    return root / (benchmark.source.folder or benchmark.name)


def missing(benchmark: Benchmark, root: Path, what: str) -> ValueError:
    """The one error for everything that a user has to fetch."""
    source = benchmark.source
    gated = " It is gated: accept its terms there and log in with `hf auth login`." if source.gated else ""
    unpack = f" {source.unpack}" if source.unpack else ""
    where = f"benchmark.root={root}" if str(root) else "benchmark.root"
    return ValueError(
        f"benchmark {benchmark.name} ({benchmark.title}): {what}. Get it from {source.address}.{gated} Put it into "
        f"{folder_of(benchmark, root)} ({where}) as it is there: {', '.join(source.files)}.{unpack}"
    )


def _match(benchmark: Benchmark, folder: Path) -> list[Path]:
    """The files of the first layout of which every pattern matches."""
    source = benchmark.source
    for patterns in (source.files, source.or_files):
        matches = [sorted(folder.glob(pattern)) for pattern in patterns]
        if matches and all(matches):
            return [path for found in matches for path in found]
    return []


def _from_hub(benchmark: Benchmark, root: Path) -> Path:
    """Fetch the questions alone: archives of videos are for the user to fetch and unpack."""
    from huggingface_hub import snapshot_download

    source = benchmark.source
    assert source.hub is not None
    try:
        return Path(
            snapshot_download(source.hub, repo_type="dataset", revision=source.revision, allow_patterns=source.files)
        )
    except Exception as error:  # the hub's own types: gated, not found, no network
        problem = str(error).strip().split("\n")[0]
        raise missing(benchmark, root, f"not found locally, and the hub ({source.hub}) refused: {problem}") from None


def read_rows(path: Path, image_columns: list[str]) -> Iterator[tuple[Row, Callable[[str], list[ImageRef]]]]:
    """Every row of a parquet, csv, jsonl or json file, and a function that finds the pictures in one of its columns.

    Tables are read by Hugging Face `datasets`; JSON is not, because records of one file differ in their keys.
    """
    beside = {
        "_file": path.stem,
        "_task": re.sub(r"^\d+_", "", path.stem),
        "_folder": path.parent.name,
    }
    if path.suffix in (".parquet", ".csv"):
        yield from _table_rows(path, image_columns, beside)
        return
    for number, row in enumerate(_json_rows(path)):
        yield {**beside, "_row": number, **row}, _no_pictures


def _no_pictures(column: str) -> list[ImageRef]:
    return []


def _table_rows(
    path: Path, image_columns: list[str], beside: Row
) -> Iterator[tuple[Row, Callable[[str], list[ImageRef]]]]:
    import datasets

    kind = path.suffix.removeprefix(".")
    table = datasets.load_dataset(kind, data_files=str(path), split="train")  # a lone file is called "train"
    for column, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            table = table.cast_column(column, datasets.List(datasets.Image(decode=False)))
    with_pictures = [name for name in image_columns if name in table.column_names and _holds_bytes(table, name)]
    light = table.remove_columns(with_pictures)

    for number, row in enumerate(light):

        def pictures(column: str, number: int = number) -> list[ImageRef]:
            if column not in with_pictures:
                return []
            cell = table[number][column]
            if isinstance(cell, list):
                return [ImageRef(table=table, row=number, column=column, number=i) for i in range(len(cell))]
            return [] if cell is None else [ImageRef(table=table, row=number, column=column)]

        yield {**beside, "_row": number, **row}, pictures


def _holds_bytes(table: Any, column: str) -> bool:
    """Whether the cells are pictures and not paths of pictures."""
    feature = table.features[column]
    feature = getattr(feature, "feature", feature)
    return type(feature).__name__ == "Image" or (isinstance(feature, dict) and "bytes" in feature)


def _json_rows(path: Path) -> Iterator[Row]:
    """Objects of a .jsonl, of a JSON list, or the values of a JSON object, whose keys become ``_key``."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        body: Any = [json.loads(line) for line in text.splitlines() if line.strip()]
    else:
        body = json.loads(text)
    if isinstance(body, dict):
        body = [{"_key": key, **row} for key, row in body.items()]
    yield from body
