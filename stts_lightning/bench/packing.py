"""How full packed sequences are, by what the packer counts: arithmetic on sizes, without a model or a clock."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import numpy as np

from stts_lightning.bench.case import TEXT_TOKENS, Shape
from stts_lightning.data.packing import Packer, Size
from stts_lightning.prune.budget import prune_count

WINDOWS = 81  # of a frame: Molmo2's 378 pixels in 3 x 3 patches of 14
CLIPS = 2_000
MAX_TOKENS = 16_384  # of a sequence, Molmo2's
LIMITS = (  # percent, what is counted, tokens and frames of a sequence
    (0, "unpruned", MAX_TOKENS, 128),
    (50, "unpruned", MAX_TOKENS, 128),
    (50, "kept", MAX_TOKENS, 128),
    (50, "kept", MAX_TOKENS, 256),
    (50, "kept", MAX_TOKENS // 2, 128),
)


def packing_table(clips: int = CLIPS, seed: int = 0) -> list[dict[str, Any]]:
    """A row for each of `LIMITS`: samples in a sequence, and the share of its places that is padding after pruning.

    The clips last 4 to 48 s, all lengths alike, of which 2 frames a second are taken and at most 64; 50 to 600 tokens
    of text go with each, all numbers alike.
    """
    rng = np.random.default_rng(seed)
    frames, texts = np.minimum(rng.integers(8, 97, clips), 64), rng.integers(50, 601, clips)
    given = [_tokens(int(f)) + int(text) for f, text in zip(frames, texts, strict=True)]
    rows = []
    for percent, counted, max_tokens, max_frames in LIMITS:
        left = [g - prune_count(percent, int(f), WINDOWS) for g, f in zip(given, frames, strict=True)]
        packer: Packer[int] = Packer(max_tokens, max_frames)
        packed = []
        for kept, whole, count in zip(left, given, frames, strict=True):
            packed.append(packer.offer(kept, Size(kept if counted == "kept" else whole, int(count))))
        full = [sequence for sequence in packed if sequence]
        rows.append(
            {
                "run": f"{percent}", "counted": counted, "max_tokens": max_tokens, "max_frames": max_frames,
                "samples_per_sequence": fmean(map(len, full)),
                "padding_share": 1 - sum(map(sum, full)) / (len(full) * max_tokens),
            }
        )  # fmt: skip
    return rows


def _tokens(frames: int) -> int:
    """Of a clip's frames with their markers and times."""
    return len(Shape("4b", 1, frames).video_tokens(WINDOWS)) - TEXT_TOKENS["4b"]
