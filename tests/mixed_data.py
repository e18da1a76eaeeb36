"""Videos, pictures and texts to train on, in one file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from stts_lightning.config import GeneratedConfig, GeneratedImagesConfig
from stts_lightning.data.generate import generated_set
from stts_lightning.data.generate_images import generated_images


def write_mixed_data(root: Path) -> Path:
    """Two questions about each of six clips, some about pictures, and six about nothing."""
    clips = generated_set(GeneratedConfig(root=str(root), train_videos=6, eval_videos=1)).train
    pictures = generated_images(GeneratedImagesConfig(train_sets=4, eval_sets=1), str(root)).train
    lines = []
    for path in (clips, pictures):
        asked: Counter[str] = Counter()
        for row in map(json.loads, path.read_text().splitlines()):
            asked[str(row.get("video"))] += "video" in row
            if asked[str(row.get("video"))] > 2:
                continue
            where = {"video": str(path.parent / row["video"])} if "video" in row else {}
            where |= {"images": [str(path.parent / name) for name in row["images"]]} if "images" in row else {}
            lines.append({**row, **where})
    for i in range(6):
        lines.append({"video": None, "question": f"what is {i} + {i}?", "options": [str(2 * i), "none"], "answer": 0})
    (root / "qa.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root / "qa.jsonl"
