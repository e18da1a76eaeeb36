"""The files of a benchmark, as values and on disk.

``files`` maps a path to its content: a list of rows (parquet, csv, jsonl), any object (json), VIDEO, or a PICTURE.
``right`` and ``wrong`` are answers of a model, in the order of the questions that stay.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

VIDEO, PICTURE = object(), object()
FRAMES, FPS = 16, 4  # 4 seconds


@dataclass
class Layout:
    folder: str
    files: dict[str, Any]
    right: list[str]
    wrong: list[str]
    dropped: dict[str, int] = field(default_factory=dict)


def clip(path: Path) -> bytes:
    from stts_lightning.video.write import write_h264

    rng = np.random.default_rng(0)
    write_h264(path, (rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in range(FRAMES)), FPS)
    return path.read_bytes()


def picture(shade: int = 90) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (20, 16), (shade, 40, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def cell(shade: int = 90) -> dict[str, Any]:
    """A picture as the hub's parquet files hold it."""
    return {"bytes": picture(shade), "path": None}


def write(layout: Layout, root: Path, video: bytes) -> None:
    for name, content in layout.files.items():
        path = root / layout.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is VIDEO:
            path.write_bytes(video)
        elif content is PICTURE:
            path.write_bytes(picture(len(name)))
        elif path.suffix == ".parquet":
            write_parquet(path, content)
        elif path.suffix == ".csv":
            with path.open("w", newline="") as file:
                table = csv.DictWriter(file, fieldnames=list(content[0]))
                table.writeheader()
                table.writerows(content)
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in content))
        else:
            path.write_text(json.dumps(content))


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


def videos(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, VIDEO)


def question(text: str, **more: Any) -> dict[str, Any]:
    return {"question": text, **more}
